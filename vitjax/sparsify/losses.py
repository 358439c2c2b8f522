"""DynamicViT's training losses: cross entropy, keep ratio, and distillation from the dense teacher."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from vitjax import ranges
from vitjax.errors import UserError


class Weights(NamedTuple):
    """Weight of each term; the recipes differ in `ratio` alone: DeiT-S and LV-ViT 2, DeiT-B 5, Swin 10."""

    classify: float = 1.0
    ratio: float = 2.0
    distill: float = 0.5
    token: float = 0.5


class Prediction(NamedTuple):
    """What student and teacher are compared by.

    Attributes:
        logits: (b, c), class scores before softmax.
        tokens: (b, n, e), after the final norm, on the full grid; or class scores of every token.
    """

    logits: Float[Array, "b c"]
    tokens: Float[Array, "b n e"]


class Terms(NamedTuple):
    """Each term before its weight, and the weighted sum."""

    total: Float[Array, ""]
    classify: Float[Array, ""]
    ratio: Float[Array, ""]
    distill: Float[Array, ""]
    token: Float[Array, ""]


def soft_cross_entropy(logits: Float[Array, "b c"], labels: Float[Array, "b c"]) -> Float[Array, ""]:
    """Cross entropy with labels that are shares of classes, mean over images.

    Args:
        logits: scores before softmax.
        labels: shares, summing to 1 per image: one-hot, smoothed, or mixed by mixup and cutmix.
    """
    log_probs = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    return -jnp.where(labels > 0, labels * log_probs, 0.0).sum(axis=-1).mean()


def ratio_loss(
    decisions: Float[Array, "b stages n"], target: Float[Array, " stages"], *, level: str = "image"
) -> Float[Array, ""]:
    """Squared gap between the kept share of tokens and its target, mean over stages.

    Source: Rao et al. 2021, DynamicViT (arXiv:2106.02034), Eq. 16.

    Args:
        decisions: 1 = kept, 0 = dropped after each stage, all stages before included.
        target: wanted share of the first tokens after each stage, in (0, 1].
        level: "image": every image keeps that share; "batch": the batch does, and images may differ.

    Returns:
        Unitless, in [0, 1].
    """
    ranges.check("ratio_loss", "target", target, 0, 1, above=True)
    share = decisions.astype(jnp.float32).mean(axis=-1)
    if level == "batch":
        share = share.mean(axis=0, keepdims=True)
    elif level != "image":
        raise UserError(f"level {level!r} is unknown; 'image' or 'batch'.")
    return jnp.mean((share - target[None, :]) ** 2)


def distill_kl(
    student: Float[Array, "*lead c"],
    teacher: Float[Array, "*lead c"],
    keep: Float[Array, "*lead"] | None = None,
) -> Float[Array, ""]:
    """KL divergence of the teacher's prediction from the student's, KL(teacher || student), temperature 1.

    Source: Rao et al. 2021, DynamicViT (arXiv:2106.02034), Eq. 15, in the direction of the official code.

    Args:
        student: scores before softmax, of images (b, c) or of tokens (b, n, c).
        teacher: the same; receives no gradient.
        keep: where 0.5 or less, a row does not count, whatever it holds; None = all count.

    Returns:
        Nats, mean over the rows that count; 0 where none does.
    """
    student, teacher = _comparable(student, teacher, keep)
    ours = jax.nn.log_softmax(student, axis=-1)
    theirs = jax.nn.log_softmax(teacher, axis=-1)
    share = jnp.exp(theirs)
    return _mean(jnp.where(share > 0, share * (theirs - ours), 0.0).sum(axis=-1), keep)


def token_mse(
    student: Float[Array, "b n d"], teacher: Float[Array, "b n d"], keep: Float[Array, "b n"] | None = None
) -> Float[Array, ""]:
    """Squared difference between the tokens of student and teacher, mean over kept tokens and features.

    Source: Rao et al. 2021, DynamicViT (arXiv:2106.02034), Eq. 14.

    Args:
        student: tokens after the final norm, on the full grid.
        teacher: of the dense model; receives no gradient.
        keep: where 0.5 or less, a token does not count, whatever it holds; None = all count.

    Returns:
        0 where no token counts. Of several GPUs the official code takes this mean on each and averages the
        means; here all kept tokens of the call weigh the same.
    """
    student, teacher = _comparable(student, teacher, keep)
    return _mean(jnp.square(student - teacher).mean(axis=-1), keep)


def sparsification_loss(
    student: Prediction,
    teacher: Prediction,
    labels: Float[Array, "b c"],
    decisions: Float[Array, "b stages m"],
    target: Float[Array, " stages"],
    *,
    keep: Float[Array, "b n"] | None = None,
    weights: Weights = Weights(),  # noqa: B008  (immutable)
    tokens_by: str = "kept",
    level: str = "image",
) -> Terms:
    """All terms of DynamicViT's training.

    Args:
        student: of the model that drops tokens.
        teacher: of the dense model; receives no gradient.
        labels: shares of classes.
        decisions: as applied, after each stage.
        target: see `ratio_loss`.
        keep: which tokens are compared; None = those of the last stage.
        weights: of the terms.
        tokens_by: "kept": squared difference of kept tokens (DeiT); "scores": tokens are class scores, and
            those of kept tokens are compared by KL divergence (LV-ViT); "all": squared difference of all
            tokens (Swin, which drops none).
        level: see `ratio_loss`.
    """
    keep = jax.lax.stop_gradient(decisions[:, -1] if keep is None else keep)
    if tokens_by == "scores":
        token = distill_kl(student.tokens, teacher.tokens, keep)
    elif tokens_by in ("kept", "all"):
        token = token_mse(student.tokens, teacher.tokens, keep if tokens_by == "kept" else None)
    else:
        raise UserError(f"tokens_by {tokens_by!r} is unknown; 'kept', 'scores' or 'all'.")
    parts = (
        soft_cross_entropy(student.logits, labels),
        ratio_loss(decisions, target, level=level),
        distill_kl(student.logits, teacher.logits),
        token,
    )
    total = sum((weight * part for weight, part in zip(weights, parts, strict=True)), jnp.float32(0))
    return Terms(total, *parts)


def _comparable(student: Array, teacher: Array, keep: Array | None) -> tuple[Array, Array]:
    """Both in float32; rows that do not count are zeros, so that nothing they hold reaches the gradient."""
    student = student.astype(jnp.float32)
    teacher = jax.lax.stop_gradient(teacher.astype(jnp.float32))
    if keep is None:
        return student, teacher
    counts = (keep > 0.5)[..., None]
    return jnp.where(counts, student, 0.0), jnp.where(counts, teacher, 0.0)


def _mean(values: Array, keep: Array | None) -> Array:
    if keep is None:
        return values.mean()
    counts = (keep > 0.5).astype(jnp.float32)
    return (values * counts).sum() / jnp.maximum(counts.sum(), 1.0)
