"""The loss of each task, as a function of variables and a batch."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from vitjax.models.swin import SwinTransformer
from vitjax.models.swin_dynamic import swin_ratios
from vitjax.sparsify.decisions import stage_ratios
from vitjax.sparsify.losses import Weights, soft_cross_entropy, sparsification_loss
from vitjax.training.config import SparsifyConfig

# (variables, teacher's variables, images, labels, rng) -> loss, (updated collections, metrics)
Loss = Callable[[dict, Any, Array, Array, Array], tuple[Array, tuple[dict, dict[str, Array]]]]


def is_dynamic(model: Any) -> bool:
    """Tells whether a model learns which tokens to drop."""
    return getattr(model, "reduce", "") == "dynamicvit" or bool(_swin_stages(model))


def dense(model: Any) -> Any:
    """The same model without predictors: the teacher of a dynamic one."""
    return model.clone(**({"pruning_loc": ()} if isinstance(model, SwinTransformer) else {"reduce": ""}))


def make_loss(model: Any, config: SparsifyConfig) -> Loss:
    """Cross entropy, and for a dynamic model the other three terms against its dense self.

    Source: Rao et al. 2021, DynamicViT (arXiv:2106.02034), Eqs. 13 to 17, in the form of the official code,
    which compares LV-ViT's tokens by their class scores and all tokens of a Swin.
    """
    teacher = dense(model) if is_dynamic(model) else None
    weights = Weights(config.classify, config.ratio, config.distill, config.token)

    def loss(
        variables: dict,
        teacher_variables: Any,
        images: Float[Array, "b h w 3"],
        labels: Float[Array, "b c"],
        rng: Array,
    ) -> tuple[Array, tuple[dict, dict[str, Array]]]:
        output, updated = model.apply(
            variables, images, train=True, rngs={"gumbel": rng}, mutable=["batch_stats"]
        )
        scores = _scores(output)
        if teacher is None:
            return soft_cross_entropy(scores, labels), (updated, {})
        target = teacher.apply(teacher_variables, images)
        terms = sparsification_loss(
            scores,
            labels,
            _scores(target),
            _tokens(output),
            _tokens(target),
            output.decisions,
            jnp.array(_ratios(model, output.decisions.shape[1]), jnp.float32),
            keep=output.decisions[:, -1] if _tokens_by(model, output) != "all" else None,
            weights=weights,
            tokens_by=_tokens_by(model, output),
            level=config.level,
        )
        kept = output.decisions[:, -1].mean()
        return terms.total, (updated, terms._asdict() | {"kept": kept})

    return loss


def _scores(output: Any) -> Array:
    """What the label is compared with: of LV-ViT the CLS token's scores alone."""
    return output.heads["cls"] if "aux" in output.heads else output.logits


def _tokens(output: Any) -> Array:
    return output.heads.get("aux", output.tokens)


def _tokens_by(model: Any, output: Any) -> str:
    if _swin_stages(model):
        return "all"
    return "scores" if "aux" in output.heads else "kept"


def _ratios(model: Any, stages: int) -> tuple[float, ...]:
    return (swin_ratios if _swin_stages(model) else stage_ratios)(model.keep_ratio, stages)


def _swin_stages(model: Any) -> tuple[int, ...]:
    return model.pruning_loc if isinstance(model, SwinTransformer) else ()
