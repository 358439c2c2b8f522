"""Versions, devices, caches and missing extras: `vitjax doctor` or `python -m vitjax.doctor`."""

import importlib.metadata
import importlib.util
import os
import pathlib
import platform
import shutil
import subprocess

from vitjax.system.terminal import protect

EXTRAS: dict[str, tuple[str, ...]] = {
    "hub": ("huggingface-hub",),
    "log": ("tensorboardX",),
    "tfds": ("tensorflow-datasets", "importlib-resources"),
    "ann": ("faiss-cpu",),
    "qdrant": ("qdrant-client",),
    "text": ("ftfy", "sentencepiece", "tokenizers"),
    "parity": ("torch", "timm", "transformers", "onnxruntime"),
}
PACKAGES = ("vitjax", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "ott-jax", "numpy", "pillow")
ENVIRONMENT = (
    "JAX_PLATFORMS",
    "XLA_FLAGS",
    "XLA_PYTHON_CLIENT_PREALLOCATE",
    "XLA_PYTHON_CLIENT_MEM_FRACTION",
    "JAX_COMPILATION_CACHE_DIR",
    "VITJAX_CACHE",
    "HF_HOME",
    "HF_HUB_OFFLINE",
)


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that decide the numbers."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def present_accelerator() -> str | None:
    """Returns the name of an accelerator this machine has, whether or not JAX can use it."""
    if shutil.which("nvidia-smi"):
        try:
            listed = subprocess.run(
                ["nvidia-smi", "-L"], capture_output=True, text=True, timeout=20, check=True
            ).stdout
        except (OSError, subprocess.SubprocessError):
            listed = ""
        if listed.startswith("GPU"):
            return listed.splitlines()[0].split("(")[0].strip()
    if list(pathlib.Path("/dev").glob("accel[0-9]*")) and importlib.util.find_spec("libtpu"):
        return "a TPU"
    return None


def idle_accelerator() -> str | None:
    """Returns one line where JAX computes on the CPU although this machine has an accelerator, else None.

    Setting JAX_PLATFORMS=cpu says that this is meant.
    """
    import jax

    asked = os.environ.get("JAX_PLATFORMS", "")
    if jax.default_backend() != "cpu" or asked.split(",")[0] == "cpu":
        return None
    name = present_accelerator()
    if name is None:
        return None
    return (
        f"this machine has {name} but JAX computes on the CPU; pip install 'jax[cuda13]', 'jax[cuda12]' or "
        "'jax[tpu]', or set JAX_PLATFORMS=cpu to accept it (python -m vitjax.doctor says more)"
    )


def installed(package: str) -> str | None:
    """Returns the version of a package, None where it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def report() -> list[str]:
    """Returns the lines that `python -m vitjax.doctor` prints."""
    return [*_versions(), "", *_devices(), "", *_folders(), "", *_extras(), "", *_environment()]


def _versions() -> list[str]:
    return ["versions", *(f"  {name:<12}{version}" for name, version in versions().items())]


def _devices() -> list[str]:
    import jax

    try:
        devices = jax.devices()
    except RuntimeError as error:
        return ["devices", f"  none: {' '.join(str(error).split())}"]
    lines = ["devices", f"  {len(devices)} x {devices[0].device_kind} ({devices[0].platform})"]
    plugins = [name for name in ("jax-cuda12-plugin", "jax-cuda13-plugin", "libtpu") if installed(name)]
    if devices[0].platform == "cpu":
        reason = idle_accelerator()
        if reason is None and present_accelerator():
            reason = f"JAX_PLATFORMS={os.environ['JAX_PLATFORMS']} asks for the CPU"
        lines.append(f"  no accelerator in use: {reason or 'none found on this machine'}")
        lines.append(f"  accelerator plugins installed: {', '.join(plugins) or 'none'}")
    return lines


def _folders() -> list[str]:
    from vitjax.system import disk_cache

    try:
        folder = disk_cache.cache_dir()
        size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    except (ValueError, OSError) as error:
        return ["cache folder", f"  {error}"]
    writes = "" if disk_cache.writable_folder("compiled") else "; it cannot be written"
    return ["cache folder", f"  {folder}: {size / 2**20:.0f} MiB{writes} (set VITJAX_CACHE to move it)"]


def _extras() -> list[str]:
    lines = ["extras"]
    for extra, packages in EXTRAS.items():
        missing = [name for name in packages if installed(name) is None]
        state = f"missing: pip install {' '.join(missing)}" if missing else "installed"
        lines.append(f"  {extra:<12}{state}")
    return lines


def _environment() -> list[str]:
    shown = [f"  {name}={os.environ[name]}" for name in ENVIRONMENT if name in os.environ]
    return ["environment (read when Python starts JAX; set it before)", *(shown or ["  nothing set"])]


if __name__ == "__main__":
    protect(pipes=True)
    print("\n".join(report()))
