"""Strict settings for every test: CPU, two devices, no silent rank promotion, no network."""

import ctypes
import gc
import os
import pathlib
import sys
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ["HF_HUB_OFFLINE"] = "1"
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"

import jax
import pytest

# Tests spend their time tracing and compiling: no optimisation, a program compiled as one piece, and loops by
# the older emitter, which halves it. XLA reads its flags once, and programs that tests start do not inherit
# these: those run as users' do.
jax.config.update("jax_disable_most_optimizations", True)
inherited = os.environ["XLA_FLAGS"]
os.environ["XLA_FLAGS"] += " --xla_cpu_parallel_codegen_split_count=1"
if jax.__version_info__ < (0, 11):  # a flag that a later XLA has no more would end the process
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
jax.devices()
os.environ["XLA_FLAGS"] = inherited
# A trace makes many objects and little garbage: looking for it more rarely saves a seventh.
gc.set_threshold(50_000, 20, 100)

KEPT = 0.8 * 2**30  # bytes of a worker that may keep its compiled programs
GOLDEN = pathlib.Path(__file__).parent / "golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden", type=pathlib.Path, default=GOLDEN, help="folder of numeric fixtures for tests/parity"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Keeps compiled programs, for all workers and for the next run; `--cache-clear` removes them."""
    if hasattr(config, "cache"):
        jax.config.update("jax_compilation_cache_dir", str(config.cache.mkdir("compiled")))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    if hasattr(config.option, "loadscopereorder"):
        # Files with many tests first, as xdist has it, leave the few long tests to one worker at the end.
        config.option.loadscopereorder = False


@pytest.fixture(autouse=True, scope="session")
def temporary_folder(tmp_path_factory: pytest.TempPathFactory):
    """Where libraries that leave folders behind leave them (TFDS does, at each dataset it opens)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("t")))
        yield


@pytest.fixture
def rng() -> jax.Array:
    return jax.random.key(0)


def resident() -> float:
    """Memory of this process in bytes; infinite where the system does not say."""
    try:
        pages = pathlib.Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    except OSError:
        return float("inf")
    return int(pages) * os.sysconf("SC_PAGESIZE")


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """Drops compiled programs after a file that leaves a worker large: keeping all takes more than 5 GB."""
    yield
    if resident() < KEPT:
        return
    jax.clear_caches()
    gc.collect()
    if sys.platform == "linux":  # glibc keeps what was freed: without this only a fifth of it goes back
        getattr(ctypes.CDLL(None), "malloc_trim", int)(0)


@pytest.fixture(autouse=True)
def no_rank_promotion(request: pytest.FixtureRequest):
    """Forbids implicit broadcasting between ranks; allowed where OTT runs, which relies on it."""
    relaxed = any(part in {"ot", "retrieval"} for part in request.path.parts)
    with jax.numpy_rank_promotion("allow" if relaxed else "raise"):
        yield
