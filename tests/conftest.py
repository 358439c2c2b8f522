"""Strict settings for every test: CPU, two devices, no silent rank promotion, no network."""

import ctypes
import gc
import os
import pathlib
import sys

os.environ.setdefault("JAX_PLATFORMS", "cpu")
if "xla_force_host_platform_device_count" not in os.environ.get("XLA_FLAGS", ""):
    os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=2"

import jax
import pytest

# Tests spend their time compiling: no optimisation, and loops by the older emitter, which halves it. XLA
# reads its flags once, and programs that tests start do not inherit this one: those run as users' do.
jax.config.update("jax_disable_most_optimizations", True)
if jax.__version_info__ < (0, 11):  # a flag that a later XLA has no more would end the process
    inherited = os.environ["XLA_FLAGS"]
    os.environ["XLA_FLAGS"] = f"{inherited} --xla_cpu_use_fusion_emitters=false"
    jax.devices()
    os.environ["XLA_FLAGS"] = inherited

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


@pytest.fixture(scope="module", autouse=True)
def compiled_programs():
    """Tests of one file share what is compiled; it is freed after them, so that a worker stays small."""
    yield
    jax.clear_caches()


@pytest.fixture
def rng() -> jax.Array:
    return jax.random.key(0)


@pytest.fixture(autouse=True, scope="module")
def forget_programs():
    """Drops compiled programs after each file: a worker that keeps them all grows beyond 5 GB."""
    yield
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
