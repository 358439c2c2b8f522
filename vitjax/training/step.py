"""One update, and one batch of an evaluation: jitted once, over a mesh, written for the global batch."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from vitjax.config.train_config import OptimConfig, TrainConfig
from vitjax.data.train_loader import RawBatch
from vitjax.sharding import ROWS
from vitjax.training.batch import Batch
from vitjax.training.losses import Loss
from vitjax.training.optim import Rates, without_gradient
from vitjax.training.state import State


def make_train_step(
    config: TrainConfig,
    loss: Loss,
    tx: optax.GradientTransformation,
    rates: Rates,
    to_batch: Callable[[RawBatch, Array], Batch],
    state_shardings: Any,
) -> Callable[[State, Any, Any], tuple[State, dict[str, Array]]]:
    """(state, raw batch, teacher's variables) -> (state, metrics); the old state's memory is reused.

    A step whose loss or gradient is not finite changes nothing but counters, so that no state is ever saved
    that NaN went into.

    Batch norm's statistics and every mean of a loss, that over kept tokens too, are of the whole batch on any
    number of devices; with `optim.accumulate` they are of a part. The official code of DynamicViT takes them
    on each GPU, over 128 images, and averages gradients: that is `optim.accumulate` = batch_size / 128.

    Args:
        config: its seed, `max_skipped` and `optim`.
        loss: see `vitjax.training.losses`.
        tx: see `make_optimizer`.
        rates: see `make_rates`.
        to_batch: see `make_mixer`.
        state_shardings: see `shardings`.
    """
    optim = config.optim
    mesh = jax.tree.leaves(state_shardings)[0].mesh

    def gradient(variables: dict, teacher: Any, batch: Batch, rng: Array) -> Any:
        rest = {name: tree for name, tree in variables.items() if name != "params"}

        def of(params: Any) -> Any:
            return loss({"params": without_gradient(params, optim.frozen), **rest}, teacher, batch, rng)

        (value, (updated, metrics)), grads = jax.value_and_grad(of, has_aux=True)(variables["params"])
        return grads, rest | dict(updated), metrics | {"loss": value}

    def accumulated(variables: dict, teacher: Any, batch: Batch, rng: Array) -> Any:
        parts = optim.accumulate
        if parts == 1:
            return gradient(variables, teacher, batch, rng)

        def split(x: Array) -> Array:
            # Part i has the rows i, i + parts, ...: every device keeps its own rows.
            x = x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)
            return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, PartitionSpec(None, *ROWS)))

        def one(rest: dict, part: Any) -> tuple[dict, Any]:
            batch, i = part
            found = gradient(variables | rest, teacher, batch, jax.random.fold_in(rng, i))
            return found[1], (found[0], found[2])

        rest = {name: tree for name, tree in variables.items() if name != "params"}
        first = jax.tree.map(lambda x: x[: len(x) // parts], batch)
        shapes = jax.eval_shape(one, rest, (first, 0))
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes[1])

        def add(carry: Any, part: Any) -> Any:
            rest, total = carry
            rest, found = one(rest, part)
            return (rest, jax.tree.map(jnp.add, total, found)), None

        (rest, total), _ = jax.lax.scan(add, (rest, zeros), (jax.tree.map(split, batch), jnp.arange(parts)))
        grads, metrics = jax.tree.map(lambda x: x / parts, total)
        return grads, rest, metrics

    def step(state: State, raw: RawBatch, teacher: Any) -> tuple[State, dict[str, Array]]:
        rng = jax.random.fold_in(jax.random.key(config.seed), state.step)
        for_mix, for_loss = jax.random.split(rng)
        batch = to_batch(raw, for_mix)
        grads, rest, metrics = accumulated(state.variables, teacher, batch, for_loss)
        norm = optax.tree.norm(grads)
        updates, opt = tx.update(grads, state.opt, state.variables["params"])
        params = jax.tree.map(
            lambda p, u, rate: p - rate * u, state.variables["params"], updates, rates(state.step)
        )
        new = {"params": params, **rest}
        ok = jnp.isfinite(metrics["loss"]) & jnp.isfinite(norm)
        past = ~ok & (state.skipped == config.max_skipped)
        kept = _choose(ok, (new, opt, _averaged(state, new, optim)), (state.variables, state.opt, state.ema))
        state = State(
            step=state.step + 1,
            variables=kept[0],
            opt=kept[1],
            ema=kept[2],
            skipped=state.skipped + ~ok,
            bad_step=jnp.where(past, state.step, state.bad_step),
        )
        return state, metrics | {"grad_norm": norm, "skipped": state.skipped, "bad_step": state.bad_step}

    whole = NamedSharding(mesh, PartitionSpec())
    return jax.jit(
        step,
        in_shardings=(state_shardings, NamedSharding(mesh, ROWS), whole),
        out_shardings=(state_shardings, whole),
        donate_argnums=0,
    )


def _averaged(state: State, new: dict, config: OptimConfig) -> dict:
    """EMA; with `ema_warmup` its decay rises with the step: the first values are soon forgotten.

    Source: timm's `ModelEma`, where it is constant; the rise is that of TensorFlow's moving averages.
    """
    if not config.ema:
        return state.ema
    count = state.step.astype(jnp.float32)
    share = jnp.minimum(config.ema, (1 + count) / (10 + count)) if config.ema_warmup else config.ema
    return jax.tree.map(lambda old, now: share * old + (1 - share) * now, state.ema, new)


def _choose(ok: Array, new: Any, old: Any) -> Any:
    return jax.tree.map(lambda n, o: jnp.where(ok, n, o), new, old)


def make_eval_step(model: Any, mesh: Mesh, variable_shardings: Any) -> Callable[..., dict[str, Array]]:
    """(sums so far, variables, images, labels, valid) -> by class: correctly classified images, and all.

    Tokens are dropped as at inference.
    """

    def step(
        sums: dict[str, Array], variables: Any, images: Array, labels: Array, valid: Array
    ) -> dict[str, Array]:
        logits = model.apply(variables, images).logits
        correct = (jnp.argmax(logits, axis=-1) == labels) & valid
        found = {"correct": correct, "count": valid}
        return {name: sums[name].at[labels].add(found[name].astype(jnp.int32)) for name in sums}

    whole, rows = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, ROWS)
    return jax.jit(step, in_shardings=(whole, variable_shardings, rows, rows, rows), out_shardings=whole)
