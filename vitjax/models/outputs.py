"""BackboneOutput: the tokens, pooled vector, logits and attention that every backbone returns."""

import warnings
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.struct
from jaxtyping import Array, Float, Int


class BackboneOutput(flax.struct.PyTreeNode):
    """Tokens, pooled feature and, where asked for, attention of one forward pass.

    Attributes:
        tokens: patch tokens after the final norm, row by row of `grid`, float32; where pruned, the kept ones.
        pooled: one feature per image: CLS token, mean of CLS and distillation token, or mean of tokens.
        prefix: tokens that stand for no patch, after the final norm: CLS, then distillation or registers.
        logits: class scores before softmax; None without a classifier or where `block` stopped early.
        attention: one (b, heads, queries, keys) array per block that ran, after softmax; None if not asked.
        pool_attention: (b, heads, 1, tokens), of attention pooling over all tokens, prefix first, after
            softmax; None if not asked, or if the model pools otherwise.
        embedding: of an image among texts: pooled, in the joint space of a model with two towers, not divided
            by its length; None in other models.
        heads: scores of each classifier by name: "cls", "dist"; "aux" has those of every patch (b, n, c).
        scores: per pruning stage, log-probabilities (b, n, 2) of keeping (index 0) and dropping a token.
        decisions: per pruning stage, 1 where a token was kept; None in a model that drops none.
        keep_index: per pruning stage, positions in the full grid of the tokens that were kept.
        owner: per stage, which token stands for each patch of the grid, -1 where it was dropped; `tokens` are
            those of the last stage, and `vitjax.sparsify.restore` puts them back on the grid.
        sizes: how many patches each token stands for, 0 for one that only pads; None in a model that reduces
            none.
        kept_scores: score of each token in the step that kept it: its probability of being kept, or CLS's
            attention, see `vitjax.sparsify.TokenMap`; None where no step ranks tokens.
        overflow: tokens that an image wanted to keep and had no room for, over all stages; None where every
            image keeps the same number.
        grid: rows and columns of patches of the image; static under jit.
    """

    tokens: Float[Array, "b n d"]
    pooled: Float[Array, "b e"]
    prefix: Float[Array, "b p d"]
    logits: Float[Array, "b c"] | None = None
    attention: tuple[Any, ...] | None = None
    pool_attention: Float[Array, "b heads 1 _"] | None = None
    embedding: Float[Array, "b j"] | None = None
    heads: dict[str, Float[Array, "b ..."]] = flax.struct.field(default_factory=dict)
    scores: tuple[Float[Array, "b _ 2"], ...] = ()
    decisions: Float[Array, "b stages _"] | None = None
    keep_index: tuple[Int[Array, "b _"], ...] = ()
    owner: tuple[Int[Array, "b cells"], ...] = ()
    sizes: Float[Array, "b n"] | None = None
    kept_scores: Float[Array, "b n"] | None = None
    overflow: Int[Array, " b"] | None = None
    grid: tuple[int, int] = flax.struct.field(pytree_node=False, default=(0, 0))

    @property
    def worth(self) -> Float[Array, "b n"] | None:
        """The old name of `kept_scores`, for one version."""
        warnings.warn("BackboneOutput.worth is kept_scores now", DeprecationWarning, stacklevel=2)
        return self.kept_scores


class TextOutput(flax.struct.PyTreeNode):
    """What a text tower returns.

    Attributes:
        tokens: of every position after the final norm, float32.
        pooled: one vector per text, of the width of the tokens; which one, the tower's `pool` says.
        embedding: pooled, in the joint space of images and texts, not divided by its length.
        attention: one (b, heads, l, l) array per block, after softmax; None if not asked.
    """

    tokens: Float[Array, "b l d"]
    pooled: Float[Array, "b d"]
    embedding: Float[Array, "b j"]
    attention: tuple[Any, ...] | None = None


class TokenReduction(NamedTuple):
    """How a model reduces its tokens: what its property `token_reduction` says, None where it does not.

    Attributes:
        name: of the method.
        trained: whether it learns which tokens to drop, so that the model returns `decisions` in training.
        keep_ratio: as the model's field; None of a method that keeps no share.
        ratios: share of the tokens that stays after each stage; () of a method that keeps no share.
        stages: how often it happens.
        dense: fields with which the model keeps all tokens, and finds its weights among those it has.
        drops: whether tokens leave; False: they take a cheaper path and stay.
    """

    name: str
    trained: bool
    keep_ratio: float | int | tuple[float, ...] | None
    ratios: tuple[float, ...]
    stages: int
    dense: Mapping[str, Any]
    drops: bool = True


def reduction_of(model: Any) -> TokenReduction | None:
    """The `token_reduction` of a model; None of one that keeps all tokens, as those without the property."""
    return getattr(model, "token_reduction", None)


def dense(model: Any) -> Any:
    """The same model with all its tokens; it finds its weights among those of the other."""
    reduction = reduction_of(model)
    return model.clone(**reduction.dense) if reduction else model
