"""The tests; `ROOT` is the top of the checkout."""

import pathlib

ROOT = pathlib.Path(__file__).parent.parent
# Flags of programs that compile sooner and run later: as one piece, without optimisation. Most of a small run
# is compiling.
QUICK = {
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    "XLA_FLAGS": "--xla_cpu_parallel_codegen_split_count=1",
}
