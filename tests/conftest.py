"""Strict settings for every test: CPU, two devices, no silent rank promotion, no network."""

import os
import pathlib

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


@pytest.fixture
def rng() -> jax.Array:
    return jax.random.key(0)


@pytest.fixture(autouse=True)
def no_rank_promotion(request: pytest.FixtureRequest):
    """Forbids implicit broadcasting between ranks; allowed where OTT runs, which relies on it."""
    relaxed = any(part in {"ot", "retrieval"} for part in request.path.parts)
    with jax.numpy_rank_promotion("allow" if relaxed else "raise"):
        yield
