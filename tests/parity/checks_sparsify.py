"""Predictor (b1), masked softmax (b2), losses (b5), dynamic models evaluated and trained (b3, b4, b6, b7)."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from tests.compiled import compiled, on_host
from tests.parity.fixture import Fixture, assert_all_compared
from vitjax.layers.masked_attention import masked_softmax
from vitjax.models import build
from vitjax.sparsify import losses
from vitjax.sparsify.predictor import Predictor
from vitjax.weights import load_weights
from vitjax.weights.rename import to_path


def _check_predictor(fixture: Fixture) -> None:
    leaves = dict(to_path(name, array) for name, array in fixture.weights.items())
    variables = {"params": jax.tree.map(jnp.asarray, unflatten_dict(leaves))}
    predictor = Predictor(eps=fixture.meta["config"]["eps"])
    tokens, keep = jnp.asarray(fixture.inputs["x"]), jnp.asarray(fixture.inputs["policy"])[..., 0]

    def inner(module: nn.Module, method: str) -> bool:
        return module.name == "in_conv_1" and method == "__call__"

    apply = compiled(predictor.apply)
    masked, seen = apply(variables, tokens, keep, capture_intermediates=inner)
    (hidden,) = seen["intermediates"]["in_conv_1"]["__call__"]
    ours = {
        "log_probs": masked,
        "log_probs_all_kept": apply(variables, tokens),
        "in_conv": jax.nn.gelu(hidden, approximate=False),
    }
    assert_all_compared(fixture, ours)
    assert_all_compared(fixture, ours | {"log_probs_all_kept": apply(variables, tokens, jnp.ones_like(keep))})


def _check_masked_softmax(fixture: Fixture) -> None:
    inputs = {name: jnp.asarray(value) for name, value in fixture.inputs.items()}
    logits, policy, soft = inputs["logits"], inputs["policy"][..., 0], inputs["soft_policy"][..., 0]

    @jax.jit
    def weights(logits, policy):
        return masked_softmax(logits, policy, compat="released")

    def weighed(policy, logits):
        return (weights(logits, policy) * inputs["grad_weight"]).sum()

    by_policy, by_logits = jax.jit(jax.grad(weighed, argnums=(0, 1)))(policy, logits)
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
            losses.Prediction(pred, tokens), losses.Prediction(inputs["cls_t"], inputs["token_t"]),
            inputs["labels_soft"], decisions,
            jnp.array(own["keep_ratio"]), keep=keep, weights=weights, tokens_by=by, level=level,
        )  # fmt: skip
        return terms.total, terms

    arguments = inputs["pred"], inputs["token_pred"], given
    graded = compiled(jax.value_and_grad(total, argnums=(0, 1, 2), has_aux=True))
    (_, terms), grads = graded(*arguments)
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


# Fields of a model fixture's config that are documentary, or other names of ours.
_DROPPED = {"rho", "predictor_eps", "grid", "distill", "p_emb", "act", "sparse_ratio"}


def _dynamic(fixture: Fixture, name: str):
    config = fixture.meta["config"]
    fields = {k: v for k, v in config.items() if k not in _DROPPED and k != "token_ratio"}
    if ratios := config.get("token_ratio") or config.get("sparse_ratio"):
        fields["keep_ratio"] = ratios
    if "swin" in name:
        fields["compat"] = "released"
    model = build(name, **fields)
    images = jnp.asarray(fixture.inputs["image"].transpose(0, 2, 3, 1), jnp.float32)
    return model, load_weights(fixture.weights, model), images


def _check_evaluation(fixture: Fixture) -> None:
    lvvit = fixture.stem.startswith("b6")
    model, variables, images = _dynamic(
        fixture, "dynamicvit_lvvit_s" if lvvit else "dynamicvit_deit_small_patch16_224"
    )
    out = on_host(jax.jit(model.apply)(variables, images))
    ours = {"logits": out.logits, "tokens_sorted": jnp.concatenate([out.prefix, out.tokens], axis=1)}
    left_out = {"tokens": "in order of score; ours are in raster order"}
    if lvvit:
        ours["logits_cls"] = out.heads["cls"]
    before = None
    for stage, index in enumerate(out.keep_index):
        ours[f"keep_global_sorted.{stage}"] = index
        for kind in ("local", "global"):
            left_out[f"keep_{kind}.{stage}"] = "in order of score"
        # The reference's later log-probabilities follow the order it keeps tokens in.
        reference = fixture.outputs[f"log_probs.{stage}"]
        if before is not None:
            order = np.argsort(fixture.outputs[f"keep_global.{stage - 1}"], axis=1)
            fixture.outputs[f"log_probs.{stage}"] = np.take_along_axis(reference, order[..., None], axis=1)
        ours[f"log_probs.{stage}"] = out.scores[stage]
        before = index
    if lvvit:
        order = np.argsort(fixture.outputs[f"keep_global.{len(out.keep_index) - 1}"], axis=1)
        fixture.outputs["logits_aux"] = np.take_along_axis(
            fixture.outputs["logits_aux"], order[..., None], axis=1
        )
        ours["logits_aux"] = out.heads["aux"]
    assert_all_compared(fixture, ours, left_out)


def _check_training(fixture: Fixture) -> None:
    swin = fixture.stem.startswith("b7")
    model, variables, images = _dynamic(
        fixture, "dynamicswin_tiny_patch4_window7_224" if swin else "dynamicvit_deit_small_patch16_224"
    )
    stages = range(len(model.pruning_loc) if swin else model.reducer.bound(model.depth).steps)
    raw = jnp.stack([jnp.asarray(fixture.inputs[f"raw_decisions.{s}"], jnp.float32) for s in stages], axis=1)
    by_logits = jnp.asarray(fixture.inputs["grad_weight_logits"])
    by_tokens = jnp.asarray(fixture.inputs.get("grad_weight_tokens", 0.0))

    @jax.jit
    def run(raw):
        def weighed(raw):
            out = model.apply(variables, images, train=True, decisions=raw)
            return (out.logits * by_logits).sum() + (out.tokens * by_tokens).sum(), out

        return jax.grad(weighed, has_aux=True)(raw)

    grad, out = on_host(run(raw))
    ours = {"logits": out.logits, "tokens": out.tokens}
    if "mask" in fixture.outputs:
        ours["mask"] = out.decisions[:, -1]
    for stage in stages:
        ours[f"log_probs.{stage}"] = out.scores[stage]
        ours[f"decisions.{stage}"] = out.decisions[:, stage]
        ours[f"grad_raw.{stage}"] = grad[:, stage]
    assert_all_compared(fixture, ours)


def _check_swin(fixture: Fixture) -> None:
    if fixture.stem.endswith("train"):
        _check_training(fixture)
        return
    model, variables, images = _dynamic(fixture, "dynamicswin_tiny_patch4_window7_224")
    out = on_host(jax.jit(model.apply)(variables, images))
    ours = {"logits": out.logits, "tokens": out.tokens, "pooled": out.pooled}
    left_out = {"stage2_out": "after patch merging, which here belongs to the next stage"}
    for stage, index in enumerate(out.keep_index):
        ours[f"keep_sorted.{stage}"] = index
        ours[f"log_probs.{stage}"] = out.scores[stage]
        left_out[f"keep.{stage}"] = "in order of score; ours are in raster order"
    assert_all_compared(fixture, ours, left_out)


CHECKS: dict[str, Callable[[Fixture], None]] = {
    "b1": _check_predictor,
    "b2": _check_masked_softmax,
    "b3": _check_evaluation,
    "b4": _check_training,
    "b5": _check_losses,
    "b6": _check_evaluation,
    "b7": _check_swin,
}
