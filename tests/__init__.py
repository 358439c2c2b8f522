"""The tests; `ROOT` is the top of the checkout."""

import pathlib

ROOT = pathlib.Path(__file__).parent.parent
