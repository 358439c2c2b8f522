"""JAX's persistent compilation cache in this package's cache folder: a second start compiles nothing."""

import os

import jax
from jax.experimental.compilation_cache import compilation_cache

from vitjax.system import disk_cache

_ENABLED, _FOLDER = "jax_enable_compilation_cache", "jax_compilation_cache_dir"
_SECONDS = "jax_persistent_cache_min_compile_time_secs"


def use_compilation_cache() -> bool:
    """Keeps compiled programs for later processes, where nothing else was asked of JAX.

    What is set already stays: a folder (JAX_COMPILATION_CACHE_DIR or `jax_compilation_cache_dir`), a least
    time, or JAX_ENABLE_COMPILATION_CACHE=false. A second call changes nothing.

    Returns:
        whether compiled programs are kept; False where the cache is off or no cache folder can be written.
    """
    if not jax.config.jax_enable_compilation_cache:  # pyright: ignore[reportAttributeAccessIssue]
        return False
    given = jax.config.jax_compilation_cache_dir  # pyright: ignore[reportAttributeAccessIssue]
    if given is None and not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        folder = disk_cache.writable_folder("compiled")
        if folder is None:
            return False
        jax.config.update(_FOLDER, str(folder))
        if _SECONDS.upper() not in os.environ and getattr(jax.config, _SECONDS) == 1.0:  # JAX's default
            jax.config.update(_SECONDS, 0.0)
        compilation_cache.reset_cache()  # JAX looks once; this process may have compiled before
    return True
