"""Adaptive token sampling: tokens by inverse transform sampling of their significance."""

from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from vitjax.errors import UserError
from vitjax.sparsify.decisions import as_keep, take, top_k_index
from vitjax.sparsify.reduction.base import ByAttention, StepInput
from vitjax.sparsify.reduction.groups import positions
from vitjax.sparsify.token_map import TokenMap


class Sampled(NamedTuple):
    """Sampled tokens: CLS (place 0), then ascending; places with `valid` 0 are padding and say 0."""

    index: Int[Array, "b k"]
    valid: Int[Array, "b k"]


def significance(
    attention: Float[Array, "b heads n n"], value: Float[Array, "b heads n w"]
) -> Float[Array, "b m"]:
    """Share of each token but the first: CLS's attention times the norm of the value, summed over heads.

    Source: Fayyaz et al. 2022, ATS (arXiv:2111.15667), Eq. 3; 1e-6 is added to what it is divided by.
    """
    norm = jnp.linalg.norm(value.astype(jnp.float32), axis=-1)
    score = (attention[:, :, 0, 1:] * norm[:, :, 1:]).sum(axis=1)
    return score / (score.sum(axis=-1, keepdims=True) + 1e-6)


def even_steps(samples: int) -> np.ndarray:
    """The middles of so many equal parts of [0, 1] (paper, Sec. 3.2).

    The published code loses the last one for most numbers, by rounding.
    """
    return ((2 * np.arange(samples) + 1) / (2 * samples)).astype(np.float32)


def inverse_transform(
    score: Float[Array, "b m"],
    steps: Float[Array, " k"],
    *,
    mask: Float[Array, "b m"] | None = None,
) -> Sampled:
    """The tokens whose cumulative score is nearest to each step, each once.

    Source: as `significance`, Sec. 3.2, in the form of Haurum et al. 2023 (arXiv:2308.04657): the nearest
    token, not the first above; 0.1 is added to the cumulative score of masked tokens. There the rows are as
    many as the image with the most tokens has; here 1 + k always, which depends on no other image.

    Args:
        score: shares of all tokens but CLS.
        steps: ascending, in [0, 1].
        mask: 1 = a token, 0 = padding. None = all are tokens.
    """
    hit = _nearest(score, steps, mask)
    index = positions(hit, min(len(steps), score.shape[1]))
    valid = take(hit, index).astype(jnp.int32)
    return Sampled(
        jnp.pad((index + 1) * valid, ((0, 0), (1, 0))), jnp.pad(valid, ((0, 0), (1, 0)), constant_values=1)
    )


def _nearest(score: Array, steps: Array, mask: Array | None = None) -> Array:
    """Whether any step takes a token."""
    cumulative = jnp.cumsum(score, axis=-1)
    if mask is not None:
        cumulative = cumulative + 0.1 * (1.0 - mask)
    gap = jnp.abs(jnp.asarray(steps)[None, :, None] - cumulative[:, None, :])
    return as_keep(gap.argmin(axis=-1).astype(jnp.int32), score.shape[1]) > 0


@dataclass(frozen=True)
class ATS(ByAttention):
    """Keeps the tokens that inverse transform sampling takes, with a budget; see `inverse_transform`.

    Needs attention; without CLS that of all tokens. No training. `keep_ratio` is the share of the tokens
    before each step that is sampled. Different from the paper, where an image keeps as many as its samples
    are distinct: the shape is the same for all images, so what doubles leave free goes to the most
    significant of the rest. Tokens leave after attention; the paper computes only the kept rows of it.
    """

    name = "ats"
    needs = ("scores", "significance")

    def select(self, token_map: TokenMap, given: StepInput, kept: int) -> Int[Array, "b k"]:
        """See `Reducer.select`."""
        if given.significance is None:
            raise UserError(f"reducer {self.name!r} samples by significance: give `significance`.")
        score = given.significance.astype(jnp.float32)
        share = score / (score.sum(axis=-1, keepdims=True) + 1e-6)
        hit = _nearest(share, jnp.asarray(even_steps(kept)))
        return top_k_index(share + 2.0 * hit, kept).astype(jnp.int32)
