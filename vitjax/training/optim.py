"""AdamW whose learning rate is a function of the step alone, and which parameters are trained when."""

import difflib
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Int32

from vitjax.config.train_config import OptimConfig
from vitjax.errors import UserError

# Parts that a dynamic model has and its dense teacher has not.
_NEW = ("score_predictor_", "token_pool_", "fastmlp", "fast_path")
_UNDECAYED = ("cls_token", "dist_token", "reg_token", "pos_embed")

Rates = Callable[[Int32[Array, ""]], Any]


def make_optimizer(config: OptimConfig) -> optax.GradientTransformation:
    """Adam with decoupled weight decay, before the learning rate (see `make_rates`).

    The state has the same leaves with and without `clip`, so that a run may resume with another one.
    """
    return optax.chain(
        optax.clip_by_global_norm(config.clip) if config.clip else optax.identity(),
        optax.scale_by_adam(config.beta1, config.beta2, config.eps),
        optax.add_decayed_weights(config.weight_decay, mask=decayed),
    )


def decayed(params: Any) -> Any:
    """True for matrices and kernels; not for biases, norms, positions and prefix tokens.

    As in the official code of DynamicViT, tables of relative positions decay.
    """
    return jax.tree.map_with_path(lambda path, x: x.ndim > 1 and _names(path)[-1] not in _UNDECAYED, params)


def make_rates(
    config: OptimConfig,
    params: Any,
    *,
    steps: int,
    steps_per_epoch: int,
    new: tuple[str, ...] = (),
    metric_rate: float = 1.0,
    offset: int = 0,
) -> tuple[Callable[[Any], Any], Rates]:
    """The learning rate at a step, and that of every parameter; those of "metric" move at `metric_rate`.

    Source: Rao et al. 2021, DynamicViT (arXiv:2106.02034), official code: predictors learn at the full rate;
    the backbone is frozen for some epochs, then trained at a share of it. While frozen its rate is 0, but its
    moments are updated. Warm-up is linear from 0 at its first step to the
    peak at its last, then a half cosine over the other steps, as `utils.cosine_scheduler` there; at the step
    behind the last it would be `min_lr`. Optax and timm reach the peak one step later.

    Args:
        config: rates and epochs.
        params: the model's parameters; where none is new, all of them move at the full rate from the start.
        steps: of the whole schedule.
        steps_per_epoch: what an epoch is.
        new: modules that are new beside predictors, by the start of their name.
        metric_rate: in units of the full rate.
        offset: added to a step to find its position in the schedule, once a run has another batch size.

    Raises:
        UserError: `frozen` names what is not there.
    """
    _check_frozen(config.frozen, params)
    warmup = min(round(config.warmup_epochs * steps_per_epoch), max(steps - 1, 0))
    rest = round(config.freeze_epochs * steps_per_epoch)
    parts = jax.tree.map_with_path(lambda path, _: part_of(path, config.frozen, new), params)
    grown = "new" in jax.tree.leaves(parts)

    def schedule(step: Any) -> Any:
        at = step + offset
        rising = config.lr * at / max(warmup - 1, 1)
        share = jnp.clip((at - warmup) / max(steps - warmup, 1), 0, 1)
        falling = config.min_lr + (config.lr - config.min_lr) * (1 + jnp.cos(jnp.pi * share)) / 2
        return jnp.where(at < warmup, rising, falling)

    def rates(step: Int32[Array, ""]) -> Any:
        full = schedule(step)
        slow = jnp.where(step + offset < rest, 0.0, full * config.backbone_lr) if grown else full
        table = {"new": full, "backbone": slow, "frozen": jnp.float32(0), "metric": full * metric_rate}
        return jax.tree.map(lambda part: table[part], parts)

    return schedule, rates


def _check_frozen(frozen: tuple[str, ...], params: Any) -> None:
    paths = [_names(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    known = list(dict.fromkeys(name for path in paths for name in path))
    for name in frozen:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=4, cutoff=0.0)
            raise UserError(
                f"{name!r} shall be frozen, but no parameter or module has that name; nearest: "
                f"{', '.join(map(repr, near))}",
                fields=("optim.frozen",),
            )


def part_of(path: tuple[Any, ...], frozen: tuple[str, ...] = (), new: tuple[str, ...] = ()) -> str:
    """Part that a parameter belongs to: "new", "backbone", "frozen", or "metric" (boundaries, proxies)."""
    names = _names(path)
    if names[0] == "metric":
        return "metric"
    if not set(frozen).isdisjoint(names):
        return "frozen"
    return "new" if any(name.startswith((*_NEW, *new)) for name in names) else "backbone"


def without_gradient(params: Any, frozen: tuple[str, ...]) -> Any:
    """Parameters, those that never move being constants: no time is spent on their gradient."""
    return jax.tree.map_with_path(
        lambda path, x: jax.lax.stop_gradient(x) if part_of(path, frozen) == "frozen" else x, params
    )


def is_new(name: str) -> bool:
    """Tells from a weight's timm name whether only a dynamic model has it."""
    return any(part.startswith(tuple(new.rstrip("_") for new in _NEW)) for part in name.split("."))


def _names(path: tuple[Any, ...]) -> list[str]:
    return [str(getattr(key, "key", key)) for key in path]
