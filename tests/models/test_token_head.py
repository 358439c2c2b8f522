import jax
import numpy as np
import pytest

from vitjax.errors import UserError
from vitjax.models.token_head import MOST_PARAMETERS, PRICE, TokenHead, match_head
from vitjax.weights import load_weights
from vitjax.weights.write import write_weights


@pytest.fixture(scope="module")
def trained():
    """A small head whose last layer is not zero, and tokens of length 1 of two images."""
    head, draw = TokenHead(local_dim=6, hidden=4), np.random.default_rng(0)
    tokens = draw.normal(size=(2, 5, 6)).astype(np.float32)
    tokens /= np.linalg.norm(tokens, axis=-1, keepdims=True)
    variables = jax.tree.map(
        lambda x: draw.normal(size=x.shape).astype(np.float32), head.init(jax.random.key(0), tokens)
    )
    variables["params"]["price"] = np.float32(0.4)
    return head, variables, tokens


@pytest.mark.parametrize(("width", "parameters"), [(384, 12_450), (768, 18_554), (1024, 16_466), (24, 930)])
def test_a_head_has_at_most_20000_parameters_at_any_width(width, parameters):
    head = match_head(width)
    shapes = jax.eval_shape(lambda: head.init(jax.random.key(0), *head.blank()))
    assert sum(x.size for x in jax.tree.leaves(shapes)) == parameters <= MOST_PARAMETERS


def test_an_untrained_head_weighs_tokens_alike(trained):
    head, _, tokens = trained
    found = head.apply(head.init(jax.random.key(1), tokens), tokens)
    np.testing.assert_allclose(found.weights, 0.2, atol=1e-7)
    assert found.price == np.float32(PRICE)


def test_padded_tokens_equal_removed_tokens_and_order_does_not_matter(trained):
    head, variables, tokens = trained
    apply = jax.jit(head.apply)
    kept = np.array([0, 2, 3])
    valid = np.isin(np.arange(5), kept)[None].repeat(2, 0)
    masked = apply(variables, np.where(valid[..., None], tokens, 0.0), valid).weights
    removed = apply(variables, tokens[:, kept]).weights
    np.testing.assert_allclose(masked[:, kept], removed, atol=1e-6)
    assert not np.asarray(masked)[:, [1, 4]].any()
    np.testing.assert_allclose(np.sum(masked, axis=1), 1.0, atol=1e-6)
    turned = apply(variables, tokens[:, kept[::-1]]).weights
    np.testing.assert_allclose(turned, removed[:, ::-1], atol=1e-6)
    assert np.ptp(removed) > 0.05


def test_an_image_without_tokens_has_no_weight_and_no_nan(trained):
    head, variables, tokens = trained
    found = head.apply(variables, 0 * tokens, np.zeros((2, 5), bool))
    assert not np.asarray(found.weights).any()


def test_weights_are_bounded_so_that_no_token_is_taken_out(trained):
    head, variables, tokens = trained
    loud = jax.tree.map(lambda x: 1e3 * x, variables)
    weights = np.asarray(head.apply(loud, tokens).weights)
    assert (weights > 0).all() and weights.max() / weights.min() <= np.exp(1.0) * (1 + 1e-5)


def test_a_written_head_is_read_again_under_its_names(trained, tmp_path):
    head, variables, _ = trained
    write_weights(tmp_path / "head.safetensors", variables, {})
    again = load_weights(tmp_path / "head.safetensors", head)
    jax.tree.map(np.testing.assert_array_equal, again, variables)


def test_another_form_than_the_published_one_is_refused():
    assert match_head(24, compat="elvis").local_dim == 24
    with pytest.raises(UserError, match="compat 'sift' is unknown; known: None, 'elvis'"):
        match_head(24, compat="sift")
