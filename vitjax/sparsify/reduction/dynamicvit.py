"""DynamicViT: tokens with the highest scores of a learned predictor stay."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from vitjax.sparsify.decisions import as_keep, keep_count, stage_ratios, top_k_index
from vitjax.sparsify.reduction.base import KeepRatio

BUDGETS = ("fixed", "own", "batch")
SLACK = 1.25  # of budget "batch": room that each image has, in units of what it would have alone


@dataclass(frozen=True)
class DynamicViT(KeepRatio):
    """Keeps the tokens with the highest scores of a learned predictor.

    Source: Rao et al. 2021, DynamicViT (arXiv:2106.02034).

    Attributes:
        budget: whose number of kept tokens is fixed. "fixed": the same for every image; "own": every image
            keeps those its predictor wants, at most that number; "batch": the batch shares out as many as
            all would keep. See `wanted`.
    """

    budget: str = "fixed"

    name = "dynamicvit"
    trained = True
    scores_tokens = True

    def count(self, stage: int, *, alive: int, total: int, prefix: int = 0) -> int:
        """See `Reducer.count`; with budget "batch" the room that an image has."""
        ratio = stage_ratios(self.keep_ratio, self.steps)[stage] * (SLACK if self.budget == "batch" else 1)
        return keep_count(total, ratio, alive=alive, prefix=prefix, round_to=self.round_to)

    def wanted(
        self, stage: int, scores: Float[Array, "b n 2"], valid: Float[Array, "b n"], *, total: int
    ) -> Float[Array, "b n"]:
        """Which tokens a step wants to keep, where that differs from image to image: 1 = keep.

        Budget "own": those whose probability of being kept is at least one half, as in training without its
        noise. Budget "batch": the best of the whole batch, as many as all its images keep together with
        "fixed"; an image's result then depends on its batch. In both the shape stays that of `count`, and an
        image that wants more keeps its best.

        Args:
            stage: from 0.
            scores: log-probabilities of keeping (index 0) and dropping.
            valid: 1 where a token is still there.
            total: patch tokens before the first step.
        """
        keep, drop = scores[..., 0], scores[..., 1]
        if self.budget == "own":
            return valid * (keep >= drop)
        share = stage_ratios(self.keep_ratio, self.steps)[stage]
        flat = jnp.where(valid > 0, keep, -jnp.inf).reshape(1, -1)
        most = min(int(len(keep) * int(total * share)), flat.shape[1])
        return valid * as_keep(top_k_index(flat, most), flat.shape[1]).reshape(valid.shape)

    def field_errors(self, depth: int) -> list[str]:
        """See `Reducer.field_errors`."""
        wrong = super().field_errors(depth)
        if self.budget not in BUDGETS:
            wrong.append(f"budget {self.budget!r} is unknown; one of {', '.join(map(repr, BUDGETS))}")
        return wrong
