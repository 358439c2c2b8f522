import json
import pathlib

import jax
import numpy as np
import pytest

from tests.models.test_counts import GOLDEN
from vitjax.errors import WeightsError
from vitjax.models.elvis import Elvis
from vitjax.weights import load_weights
from vitjax.weights.load import match

MANIFESTS = sorted((GOLDEN / "manifests").glob("elvis_*.json"))


def shapes(path: pathlib.Path) -> dict[str, np.ndarray]:
    described = json.loads(path.read_text())
    return {k: np.broadcast_to(np.float32(0), v) for k, v in described.items() if k != "_meta"}


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda p: p.stem)
def test_published_weights_fit_a_head_of_their_width(path):
    state = shapes(path)
    model = Elvis(local_dim=state["remap_local.0.weight"].shape[1])
    placed, report = match({f"state.{name}": array for name, array in state.items()}, model)
    assert report.fits and report.layout == "ELViS", str(report)
    assert sum(x.size for x in placed.values()) == json.loads(path.read_text())["_meta"]["parameters"]


def test_weights_of_another_width_are_refused_with_both_shapes():
    with pytest.raises(WeightsError, match=r"128, 384.*|384.*768"):
        load_weights(shapes(MANIFESTS[-1]), Elvis(local_dim=768))


def test_padding_has_no_match_and_no_vote_and_no_gradient():
    """Of the outputs; in the dustbins' mass it takes part, as in the released code."""
    model, draw = Elvis(local_dim=6, model_dim=8), np.random.default_rng(0)
    query, candidate = (draw.normal(size=(2, n, 6)).astype(np.float32) for n in (3, 4))
    variables = model.init(jax.random.key(0), query, candidate)
    valid = np.array([[True, True, False], [True, True, True]]), np.ones((2, 4), bool)

    def score(query):
        found = model.apply(variables, query, candidate, *valid)
        return found.score.sum(), found

    (_, found), slope = jax.jit(jax.value_and_grad(score, has_aux=True))(query)
    assert not np.asarray(found.plan)[0, 2].any() and np.asarray(found.plan)[0, :2].any()
    assert found.vote[0, 2] == 0 and np.isneginf(found.similarity[0, 2]).all()
    assert np.isfinite(slope).all() and np.abs(slope[0, :2]).min() > 0
