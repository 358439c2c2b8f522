"""Text from elsewhere on a terminal: what would steer the terminal is shown as an escape, never obeyed."""

import os
import sys
import unicodedata
from typing import Any

# Control characters (C0, DEL, C1), marks that turn the direction of text, line and paragraph separators, and
# halves of surrogate pairs, which are bytes of file names that are no text.
_STEERING = {"Cc", "Cf", "Cs", "Zl", "Zp"}
_JOINERS = "\u200c\u200d"  # of the same category, but part of scripts and of emoji


def clean(text: str, *, keep: str = "") -> str:
    r"""Text that is safe on a terminal and in a log, characters that would steer it as Python writes them.

    >>> clean("a\x1b[2Jb\nc.png")
    'a\\x1b[2Jb\\nc.png'

    Args:
        text: file names, class names, names of weights, messages with such names in them.
        keep: characters that stay as they are, for instance a newline.
    """
    if text.isprintable():
        return text
    kept = keep + _JOINERS
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c) in _STEERING and c not in kept else c
        for c in text
    )


class CleanStream:
    """A text stream on which control characters are shown and lines stay lines; all else is the stream's.

    Rich writes to the stream below: it cleans its texts before it colours them.
    """

    def __init__(self, stream: Any) -> None:
        self.rich_proxied_file = stream

    def write(self, text: str) -> int:
        """Writes text that is not trusted; tracebacks, warnings and logs of libraries come this way."""
        self.rich_proxied_file.write(clean(text, keep="\n\t"))
        return len(text)

    def writelines(self, lines: Any) -> None:
        """Writes several."""
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.rich_proxied_file, name)


def protect(*, pipes: bool = False) -> None:
    """From here on nothing that this process prints steers a terminal.

    Args:
        pipes: also clean stdout where it is no terminal, as of programs whose output only people read.
    """
    os.environ["PYTHON_COLORS"] = "0"  # Python 3.13 colours tracebacks, which would be shown as escapes
    if not isinstance(sys.stderr, CleanStream):
        sys.stderr = CleanStream(sys.stderr)
    if not isinstance(sys.stdout, CleanStream) and (pipes or sys.stdout.isatty()):
        sys.stdout = CleanStream(sys.stdout)
