import jax.numpy as jnp
import numpy as np
import pytest

from tests.retrieval.cases import random_descriptors
from vitjax.config import RerankConfig
from vitjax.ot import StructuralMatch, Transport
from vitjax.retrieval.reranking import matching


def test_the_error_of_a_pair_is_that_of_its_rows_and_of_its_columns(monkeypatch):
    def given(similarity, a, b, spec, params):
        rows, columns = jnp.array([[0.25, 0.0]]), jnp.array([[0.5, 0.125]])
        transport = Transport(jnp.zeros_like(similarity), rows, columns, jnp.ones((1, 2)))
        return StructuralMatch(jnp.zeros((1, 2)), transport, similarity)

    monkeypatch.setitem(matching._METHODS, "balanced", given)
    queries, candidates = random_descriptors(1, tokens=3), random_descriptors(2, tokens=4, seed=1)
    candidates = candidates.take(np.arange(2)[None])
    found = matching.match_block(queries, candidates, *matching.settings(RerankConfig()))
    assert found.error.tolist() == [[0.75, 0.125]]


@pytest.mark.parametrize("side", ["query", "candidate"])
def test_a_pair_with_a_side_without_valid_tokens_is_not_matched(side):
    queries, candidates = random_descriptors(1, tokens=3), random_descriptors(2, tokens=4, seed=1)
    (queries if side == "query" else candidates).valid[0] = False
    candidates = candidates.take(np.arange(2)[None])
    found = matching.match_block(queries, candidates, *matching.settings(RerankConfig(iterations=5)))
    assert found.matched.tolist() == [[False, side == "candidate"]]
