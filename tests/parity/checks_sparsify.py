"""Token sparsification fixtures that need no model: predictor (b1), masked softmax (b2), losses (b5)."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from tests.parity.fixture import Fixture, assert_all_compared
from vitjax.sparsify import losses
from vitjax.sparsify.masked import masked_softmax
from vitjax.sparsify.predictor import Predictor
from vitjax.weights.rename import to_path


def _check_predictor(fixture: Fixture) -> None:
    leaves = dict(to_path(name, array) for name, array in fixture.weights.items())
    variables = {"params": jax.tree.map(jnp.asarray, unflatten_dict(leaves))}
    predictor = Predictor(eps=fixture.meta["config"]["eps"])
    tokens, keep = jnp.asarray(fixture.inputs["x"]), jnp.asarray(fixture.inputs["policy"])[..., 0]

    def inner(module: nn.Module, method: str) -> bool:
        return module.name == "in_conv_1" and method == "__call__"

    masked, seen = predictor.apply(variables, tokens, keep, capture_intermediates=inner)
    (hidden,) = seen["intermediates"]["in_conv_1"]["__call__"]
    ours = {
        "log_probs": masked,
        "log_probs_all_kept": predictor.apply(variables, tokens),
        "in_conv": jax.nn.gelu(hidden, approximate=False),
    }
    assert_all_compared(fixture, ours)
    assert_all_compared(
        fixture, ours | {"log_probs_all_kept": predictor.apply(variables, tokens, keep * 0 + 1)}
    )


def _check_masked_softmax(fixture: Fixture) -> None:
    inputs = {name: jnp.asarray(value) for name, value in fixture.inputs.items()}
    logits, policy, soft = inputs["logits"], inputs["policy"][..., 0], inputs["soft_policy"][..., 0]

    def weights(logits, policy):
        return masked_softmax(logits, policy, compat="released")

    def weighed(policy, logits):
        return (weights(logits, policy) * inputs["grad_weight"]).sum()

    by_policy, by_logits = jax.grad(weighed, argnums=(0, 1))(policy, logits)
    ours = {
        "attn": weights(logits, policy),
        "attn_all_kept": weights(logits, jnp.ones_like(policy)),
        "attn_soft_policy": weights(logits, soft),
        "grad_policy": by_policy[..., None],
        "grad_logits": by_logits,
    }
    assert_all_compared(fixture, ours)


def _check_losses(fixture: Fixture) -> None:
    inputs = {name: jnp.asarray(value) for name, value in fixture.inputs.items()}
    config = fixture.meta["config"]
    given = jnp.stack([inputs[f"decisions.{s}"] for s in range(len(config["deit"]["keep_ratio"]))], axis=1)
    ours: dict[str, np.ndarray] = {}
    for variant in dict.fromkeys(name.split("/")[0] for name in fixture.outputs):
        ours |= _one_variant(variant, config, inputs, given)
    assert_all_compared(fixture, ours)


def _one_variant(variant: str, config: dict, inputs: dict, given: jax.Array) -> dict:
    own = config[variant] if isinstance(config[variant], dict) else {}
    own = config["deit"] | own
    rename = {"ratio_weight": "ratio", "distill_weight": "distill", "clf_weight": "classify"}
    weights = losses.Weights(**{ours: own[theirs] for theirs, ours in rename.items()})
    weights = weights._replace(token=own["distill_weight"])
    by = "scores" if variant == "lvvit" else "all" if variant in ("swin", "convnext") else "kept"
    level = "batch" if "dynamic" in variant else "image"
    keep = jnp.zeros_like(given[:, -1]) if "empty" in variant else None

    def total(pred, tokens, decisions):
        terms = losses.sparsification_loss(
            pred, inputs["labels_soft"], inputs["cls_t"], tokens, inputs["token_t"], decisions,
            jnp.array(own["keep_ratio"]), keep=keep, weights=weights, tokens_by=by, level=level,
        )  # fmt: skip
        return terms.total, terms

    arguments = inputs["pred"], inputs["token_pred"], given
    (_, terms), grads = jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True)(*arguments)
    found = {
        "cls": terms.classify,
        "ratio_sum": terms.ratio * given.shape[1],
        "cls_kl": terms.distill,
        "token": terms.token,
        "total": terms.total,
        "grad_pred": grads[0],
        "grad_token_pred": grads[1],
        **{f"grad_decision.{s}": grads[2][:, s] for s in range(given.shape[1])},
    }
    return {f"{variant}/{name}": value for name, value in found.items()}


CHECKS: dict[str, Callable[[Fixture], None]] = {
    "b1": _check_predictor,
    "b2": _check_masked_softmax,
    "b5": _check_losses,
}
