"""Keep decisions: Gumbel-softmax samples in training, top k at inference, and k from the keep ratio."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vitjax import ranges
from vitjax.errors import UserError


def sample(rng: Array, log_probs: Float[Array, "b n 2"], *, temperature: Any = 1.0) -> Float[Array, "b n"]:
    """Sampled decisions, exactly 0 or 1, with the gradient of the Gumbel-softmax that they were rounded from.

    Source: Jang et al. 2017 (arXiv:1611.01144), straight-through form, as DynamicViT uses it (arXiv:
    2106.02034, Sec. 3.2). Of two classes the softmax is a sigmoid of a difference.

    Args:
        rng: a key.
        log_probs: log-probabilities, or any logits; index 0 = keep.
        temperature: of the softmax; above 0.

    Returns:
        1 = keep.
    """
    ranges.check("sample", "temperature", temperature, 0, above=True)
    noisy = log_probs.astype(jnp.float32) + jax.random.gumbel(rng, log_probs.shape, jnp.float32)
    soft = jax.nn.sigmoid((noisy[..., 0] - noisy[..., 1]) / temperature)
    hard = (soft >= 0.5).astype(jnp.float32)
    # In this order the sum is exact: the difference is, both numbers being within a factor of two or one 0.
    return jax.lax.stop_gradient(hard - soft) + soft


def cumulative(raw: Float[Array, "b stages n"]) -> Float[Array, "b stages n"]:
    """Decisions of every stage applied to what the stages before left; gradient reaches all of them."""
    return jnp.cumprod(raw, axis=1)


def stage_ratios(keep_ratio: Any, stages: int) -> tuple[float, ...]:
    """Kept share of the first tokens after each stage: rho, rho^2, ..., or the shares themselves.

    Args:
        keep_ratio: a number, or one per stage: Python's, or arrays that are known before tracing.
        stages: how many.

    Raises:
        ValueError: not one share per stage, or one outside (0, 1].

    >>> stage_ratios(0.5, 3)
    (0.5, 0.25, 0.125)
    """
    if np.ndim(keep_ratio):
        ratios = tuple(float(ratio) for ratio in keep_ratio)
    else:
        ratios = tuple(float(keep_ratio) ** (stage + 1) for stage in range(stages))
    if len(ratios) != stages or not all(0 < ratio <= 1 for ratio in ratios):
        raise UserError(
            f"keep_ratio is {keep_ratio}; give one number in (0, 1], or one for each of the {stages} stages."
        )
    return ratios


def keep_count(total: int, ratio: float, *, alive: int, prefix: int = 0, round_to: int = 1) -> int:
    """How many tokens stay: int(total * ratio), at least 1, at most `alive`.

    The truncation, floating point included, is that of the official code: int(196 * (0.7 - 0.2)) is 97.

    Args:
        total: tokens before the first stage.
        ratio: share of `total` that stays.
        alive: tokens before this stage.
        prefix: tokens that always stay, counted where a multiple is asked for.
        round_to: the number of tokens, prefix included, becomes the nearest multiple: 8 fits a TPU's tiles.

    >>> [keep_count(196, 0.7**s, alive=196, prefix=1, round_to=8) for s in (1, 2, 3)]
    [135, 95, 71]
    """
    count = int(total * ratio)
    if round_to > 1 and count < alive:
        count = math.floor((count + prefix) / round_to + 0.5) * round_to - prefix
    return max(1, min(count, alive))


def top_k_index(scores: Float[Array, "b n"], k: int) -> Int[Array, "b k"]:
    """Positions of the k highest scores, ascending; of equal scores the first. NaN ranks below all.

    >>> top_k_index(jnp.array([[0.1, 0.9, jnp.nan, 0.5]]), 2).tolist()
    [[1, 3]]
    """
    scores = jnp.where(jnp.isnan(scores), -jnp.inf, scores)
    return jnp.sort(jax.lax.top_k(scores, k)[1], axis=-1)


def take(values: Array, index: Int[Array, "b k"]) -> Array:
    """Rows of (b, n, ...) at each image's own positions."""
    index = index.reshape(*index.shape, *(1,) * (values.ndim - 2))
    return jnp.take_along_axis(values, index, axis=1)


def as_keep(index: Int[Array, "b k"], total: int) -> Float[Array, "b n"]:
    """Positions as a mask: 1 where a token is kept; positions outside [0, total) stand for none."""
    hits = index[:, :, None] == jnp.arange(total, dtype=index.dtype)[None, None, :]
    return hits.any(axis=1).astype(jnp.float32)
