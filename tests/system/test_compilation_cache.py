"""Compiled programs are kept for the next process, by the Python front as by the programs."""

import os
import subprocess
import sys

import jax
import pytest

from tests import QUICK
from vitjax.system import compilation_cache

FRONT = """
import sys
import jax, jax.numpy as jnp, numpy as np
jnp.arange(3).sum().block_until_ready()  # this process has compiled before it meets vitjax
hits = []
def heard(event, **_):
    hits.extend([event] * event.endswith("cache_hits"))
jax.monitoring.register_event_listener(heard)
import vitjax
from vitjax.config import EvalConfig, ModelConfig
model = ModelConfig("vit_small_patch14_dinov2", img_size=28, embed_dim=8, depth=1, num_heads=2)
front = vitjax.Reranker.from_config(EvalConfig(model=model), compilation_cache=sys.argv[1] == "on")
front.rank(np.zeros((28, 28, 3), np.uint8), [np.ones((28, 28, 3), np.uint8)])
print(len(hits), jax.config.jax_compilation_cache_dir)
"""


def front(folder, switch: str, **env: str) -> tuple[int, str]:
    """Programs that a process took from the cache, and where that lies."""
    gone = ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE")
    kept = {name: value for name, value in os.environ.items() if name not in gone}
    env = kept | QUICK | {"VITJAX_CACHE": str(folder), "JAX_PLATFORMS": "cpu"} | env
    command = [sys.executable, "-c", FRONT, switch]
    out = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    hits, path = out.split()
    return int(hits), path


def test_a_second_process_of_the_python_front_takes_its_programs_from_the_cache(tmp_path):
    assert front(tmp_path, "on") == (0, str(tmp_path / "compiled"))
    assert front(tmp_path, "on")[0] >= 5
    assert front(tmp_path, "off") == (0, "None")


@pytest.fixture
def settings(monkeypatch, tmp_path):
    """JAX as it starts, with a cache folder of its own; what was set before comes back."""
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}
    monkeypatch.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    monkeypatch.setenv("VITJAX_CACHE", str(tmp_path))
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)
    yield jax.config
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.compilation_cache.reset_cache()


def test_what_is_set_of_the_cache_already_stays(settings, tmp_path):
    jax.config.update("jax_compilation_cache_dir", "own")
    assert compilation_cache.use_compilation_cache()
    assert settings.jax_compilation_cache_dir == "own"
    assert settings.jax_persistent_cache_min_compile_time_secs == 1.0
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.25)
    assert compilation_cache.use_compilation_cache()
    assert settings.jax_compilation_cache_dir == str(tmp_path / "compiled")
    assert settings.jax_persistent_cache_min_compile_time_secs == 0.25


def test_a_cache_that_is_off_or_cannot_be_written_stays_off(settings, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("VITJAX_CACHE", str(tmp_path / "file"))
    assert not compilation_cache.use_compilation_cache()
    monkeypatch.setenv("VITJAX_CACHE", str(tmp_path))
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        assert not compilation_cache.use_compilation_cache()
        assert settings.jax_compilation_cache_dir is None
    finally:
        jax.config.update("jax_enable_compilation_cache", True)
