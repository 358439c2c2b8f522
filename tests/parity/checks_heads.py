"""The matching head of ELViS against its released code (kind h1)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from tests.parity.fixture import Fixture, assert_all_compared
from vitjax.models.token_head import match_head
from vitjax.weights import load_weights
from vitjax.weights.rename import to_path


def check_elvis(fixture: Fixture) -> None:
    config, given = fixture.meta["config"], fixture.inputs
    model = match_head(config["local_dim"], compat="elvis").clone(
        model_dim=config["model_dim"],
        temperature=config["sh_temp"],
        iterations=config["sh_iter"],
        norm_eps=config["eps_remap"],
        vote_eps=config["eps_f"],
    )
    variables = load_weights(fixture.weights, model)
    query, candidate = jnp.asarray(given["src"]), jnp.asarray(given["tgt"])
    valid = given["src_mask"] == 0, given["tgt_mask"] == 0
    apply = jax.jit(model.apply)
    ours: dict[str, Any] = {}

    @jax.jit
    def loss(params: Any, query_valid: Any, candidate_valid: Any) -> Any:
        found = model.apply({"params": params}, query, candidate, query_valid, candidate_valid)
        return jnp.mean(optax.sigmoid_binary_cross_entropy(found.logit, given["labels"]))

    for name, there in (("plain", tuple(np.ones(x.shape, bool) for x in valid)), ("masked", valid)):
        found = apply(variables, query, candidate, *there)
        value, gradient = jax.value_and_grad(loss)(variables["params"], *there)
        ours |= {
            f"{name}/src_gain": found.query_gain,
            f"{name}/tgt_gain": found.candidate_gain,
            f"{name}/correlation": np.maximum(found.similarity, -2.0),
            f"{name}/plan": found.plan,
            f"{name}/best": found.best,
            f"{name}/vote": found.vote,
            f"{name}/score": found.score,
            f"{name}/train_logit": found.logit,
            f"{name}/loss": value,
        }
        for key in fixture.outputs:
            if key.startswith(f"{name}/grad."):
                torch_name = key.removeprefix(f"{name}/grad.")
                ours[key] = config["grad_scale"] * _gradient(gradient, torch_name, fixture.weights)
    ours["swapped/score"] = apply(variables, candidate, query).score
    alone = jax.vmap(lambda *pair: model.apply(variables, *(x[None] for x in pair)).score[0])
    ours["single/score"] = alone(query, candidate)
    cut = [(query[i, v][None], candidate[i, w][None]) for i, (v, w) in enumerate(zip(*valid, strict=True))]
    ours["unpadded/score"] = np.concatenate([model.apply(variables, *pair).score for pair in cut])
    assert_all_compared(fixture, ours)


def _gradient(gradient: Any, name: str, weights: dict[str, np.ndarray]) -> np.ndarray:
    path, _ = to_path(name, weights[name])
    for part in path:
        gradient = gradient[part]
    return np.asarray(gradient).T


CHECKS: dict[str, Callable[[Fixture], None]] = {"h1": check_elvis}
