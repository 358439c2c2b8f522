"""The positional subspace: found on flat images, as large as needed, and projected out of tokens."""

import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.models import BackboneOutput
from vitjax.retrieval import make_describe, positional_bias, positional_subspace

RNG = np.random.default_rng(0)
PLACES = RNG.normal(size=(12, 3)) * [4, 2, 1]  # what tokens owe to their position, in three directions
TURN = np.linalg.qr(RNG.normal(size=(10, 10)))[0]
PLACE = PLACES @ TURN[:3]


def content(n: int) -> np.ndarray:
    return RNG.normal(size=(n, 12, 10))


def projected(tokens: np.ndarray, basis: np.ndarray) -> np.ndarray:
    return tokens - tokens @ basis @ basis.T


def test_the_subspace_is_the_one_that_positions_span():
    basis = positional_subspace(100.0 * TURN[5] + PLACE[None] + 1e-3 * content(3), components=3)
    np.testing.assert_allclose(basis.T @ basis, np.eye(3), atol=1e-6)
    left = np.linalg.norm(projected(PLACE - PLACE.mean(0), basis)) / np.linalg.norm(PLACE - PLACE.mean(0))
    assert left < 0.02
    assert (np.take_along_axis(basis, np.abs(basis).argmax(0)[None], 0) > 0).all()


def test_as_many_directions_are_taken_as_unrelated_images_need():
    flat = 10.0 * TURN[5] + PLACE[None] + 1e-3 * content(2)
    strong, none = content(40) + PLACE, content(40)
    basis = positional_subspace(flat, strong)
    assert basis.shape == (10, 2)  # of 1, 2, 4, ..; the third direction is weaker than the content
    assert positional_bias(projected(strong, basis)) <= 0.2 * positional_bias(strong)
    assert positional_bias(projected(strong, basis[:, :1])) > 0.2 * positional_bias(strong)
    assert positional_bias(projected(none, positional_subspace(flat, none))) <= abs(positional_bias(none))


def test_the_bias_is_the_difference_of_two_mean_cosines():
    tokens = content(4) + PLACE
    unit = tokens / np.linalg.norm(tokens, axis=-1, keepdims=True)
    cosines = [unit[i] @ unit[j].T for i in range(4) for j in range(4) if i != j]
    same = np.mean([np.diag(x) for x in cosines])
    other = np.mean([x[~np.eye(12, dtype=bool)] for x in cosines])
    assert positional_bias(3.0 * tokens) == pytest.approx(same - other, rel=1e-9)
    assert positional_bias(tokens[:1]) == 0


def test_a_token_that_is_not_there_says_nothing():
    flat = 10.0 * TURN[5] + PLACE[None] + 1e-3 * content(2)
    dropped = flat.copy()
    dropped[0, 4] = 0
    whole, without = (positional_subspace(x, components=2) for x in (flat, dropped))
    np.testing.assert_allclose(whole @ whole.T, without @ without.T, atol=0.1)


def test_a_number_of_directions_that_cannot_be_is_refused():
    with pytest.raises(ValueError, match="0 components of 10 directions; give images"):
        positional_subspace(content(2))
    with pytest.raises(ValueError, match="11 components of 10 directions"):
        positional_subspace(content(2), components=11)


def test_described_tokens_have_no_part_in_the_subspace():
    tokens = jnp.asarray(content(2), jnp.float32)
    output = BackboneOutput(tokens, tokens.mean(1), tokens[:, :0], grid=(3, 4))
    basis = np.asarray(TURN[:, :3], np.float32)
    describe = make_describe(lambda *_: output, subspace=basis, center=PLACE.astype(np.float32))
    found = np.asarray(describe({}, tokens, np.ones(2, bool)).tokens)
    wanted = projected(np.asarray(tokens) - PLACE, basis)
    np.testing.assert_allclose(found, wanted / np.linalg.norm(wanted, axis=-1, keepdims=True), atol=1e-5)
