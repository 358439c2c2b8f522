"""Position tables for another image size: two small interpolation matrices, one per axis.

Checkpoints do this in several ways, and the results differ by far more than rounding:

- timm, and DINOv2 with registers: bicubic (a = -0.5), antialiased, by output size.
- Hugging Face ViT, DeiT and DINOv2, and ONNX exports of them: bicubic (a = -0.75), not antialiased, by
  output size.
- Original DINOv2 without registers: the same, but sampled at the step of a scale factor,
  M / (size + 0.1) for a table of M rows, instead of M / size.
- Google's ViT: linear, corner rows on corner rows (`scipy.ndimage.zoom`, order 1).
- TIPS: bilinear, antialiased, by output size. PE: the same, but not antialiased.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def resize_positions(
    table: Float[Array, "n d"],
    source: tuple[int, int],
    target: tuple[int, int],
    *,
    antialias: bool = True,
    offset: float | int = 0.0,
    corners: bool = False,
    interpolation: str = "bicubic",
) -> Float[Array, "m d"]:
    """Position embeddings of one grid of patches resampled to another grid.

    Args:
        table: one row per patch, row by row of `source`; prefix rows split off before.
        source: rows and columns of the table's grid.
        target: rows and columns wanted.
        antialias: timm's way; False: plain interpolation, borders clamped.
        offset: in patches; non-zero samples at step source / (target + offset), the original DINOv2's way.
        corners: Google's way, in place of all others.
        interpolation: "bicubic" or "bilinear".

    Returns:
        One row per patch of `target`; the table itself where the grids agree.
    """
    if source == target:
        return table
    rows, columns = (
        _corner_matrix(size, wanted)
        if corners
        else _axis_matrix(
            size, wanted, antialias=antialias, offset=offset, linear=interpolation == "bilinear"
        )
        for size, wanted in zip(source, target, strict=True)
    )
    grid = table.reshape(*source, table.shape[-1])
    resized = jnp.einsum("yh,xw,hwd->yxd", rows, columns, grid, precision=jax.lax.Precision.HIGHEST)
    return resized.reshape(target[0] * target[1], table.shape[-1])


def _axis_matrix(size: int, wanted: int, *, antialias: bool, offset: float | int, linear: bool) -> np.ndarray:
    """Interpolation weights (wanted, size) along one axis."""
    step = size / (wanted + offset)
    centre = (np.arange(wanted) + 0.5) * step - 0.5
    if antialias:
        # The kernel widens with the step when shrinking; taps outside are left out and the rest renormalised.
        distance = (np.arange(size)[None, :] - centre[:, None]) / max(step, 1.0)
        weights = _hat(distance) if linear else _cubic(distance, -0.5)
        weights /= weights.sum(axis=1, keepdims=True)
    else:
        weights = np.zeros((wanted, size))
        first = np.floor(centre).astype(int)
        for tap in range(-1, 3):
            coordinate, distance = np.clip(first + tap, 0, size - 1), first + tap - centre
            share = _hat(distance) if linear else _cubic(distance, -0.75)
            np.add.at(weights, (np.arange(wanted), coordinate), share)
    return weights.astype(np.float32)


def _corner_matrix(size: int, wanted: int) -> np.ndarray:
    """Linear interpolation weights (wanted, size) along one axis; the first and the last row stay."""
    coordinate = np.linspace(0, size - 1, wanted) if wanted > 1 else np.zeros(1)
    return _hat(coordinate[:, None] - np.arange(size)[None, :]).astype(np.float32)


def _hat(distance: np.ndarray) -> np.ndarray:
    """Kernel of linear interpolation."""
    return np.maximum(1 - np.abs(distance), 0)


def _cubic(distance: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel."""
    x = np.abs(distance)
    near = (a + 2) * x**3 - (a + 3) * x**2 + 1
    far = a * (x**3 - 5 * x**2 + 8 * x - 4)
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
