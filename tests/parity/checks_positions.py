"""Removal of positional bias against INSID3's (kind h3)."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np

from tests.parity.fixture import Fixture, assert_all_compared
from vitjax.models import BackboneOutput
from vitjax.retrieval import make_describe, positional_subspace


def _tokens(maps: np.ndarray) -> np.ndarray:
    """Feature maps (n, c, h, w) as tokens (n, h w, c)."""
    return maps.reshape(*maps.shape[:2], -1).swapaxes(1, 2)


def check_insid3(fixture: Fixture) -> None:
    empty, features = fixture.inputs["empty"], fixture.inputs["features"]
    n, _, h, w = features.shape
    ours = {}
    for k in fixture.meta["config"]["components"]:
        basis = positional_subspace(_tokens(empty), components=k)
        ours[f"{k}/basis"], ours[f"{k}/projector"] = basis, basis @ basis.T
        tokens = jnp.asarray(_tokens(features))
        output = BackboneOutput(tokens, tokens.mean(axis=1), tokens[:, :0], grid=(h, w))
        describe = make_describe(lambda *_, output=output: output, subspace=basis)
        found = describe({}, features, np.ones(n, bool))
        ours[f"{k}/debiased"] = np.asarray(found.tokens).swapaxes(1, 2).reshape(features.shape)
    assert_all_compared(
        fixture, ours, {"singular_values": "only which directions are strongest is used, not how strong"}
    )


CHECKS: dict[str, Callable[[Fixture], None]] = {"h3": check_insid3}
