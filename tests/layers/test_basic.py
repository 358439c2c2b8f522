import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.models.family import FAMILIES
from vitjax.layers.basic import drop_branch, drop_rates
from vitjax.models import build

VIT = {"img_size": (8, 12), "patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2, "num_classes": 3}
SWIN = FAMILIES["dynamicswin"].fields
NAMES = [
    ("deit_tiny_patch16_224", VIT),
    ("dynamicvit_deit_tiny_patch16_224", VIT),
    ("dynamicswin_tiny_patch4_window7_224", SWIN),
]


class Branch(nn.Module):
    rate: float

    @nn.compact
    def __call__(self, update):
        return drop_branch(self, update, self.rate)


def test_a_share_of_the_images_goes_without_the_branch_and_the_mean_stays():
    update = jnp.ones((4000, 2, 3))
    found = np.asarray(Branch(0.25).apply({}, update, rngs={"dropout": jax.random.key(0)}))
    assert {0.0, np.float32(1 / 0.75)} == set(found.ravel())
    np.testing.assert_array_equal(found, np.broadcast_to(found[:, :1, :1], found.shape))
    assert found.mean() == pytest.approx(1, abs=0.03)  # the mean of so many has a deviation of 0.009
    np.testing.assert_array_equal(Branch(0.25).apply({}, update), update)


def test_rates_rise_evenly_from_none():
    assert drop_rates(0.2, 5) == pytest.approx((0, 0.05, 0.1, 0.15, 0.2))
    assert drop_rates(0.2, 1) == (0.0,)


@pytest.mark.parametrize(("name", "sizes"), NAMES)
def test_models_drop_branches_by_the_key_alone_and_in_training_alone(name, sizes):
    plain, model = build(name, **sizes), build(name, **sizes, drop_path_rate=0.5)
    images = np.random.default_rng(1).normal(size=(4, *sizes["img_size"], 3)).astype("f")
    variables = jax.jit(plain.init)(jax.random.key(0), images)

    def logits(model, **rngs):
        return model.apply(variables, images, train=True, rngs={"gumbel": jax.random.key(2), **rngs}).logits

    draw = jax.jit(lambda key: logits(model, dropout=key))
    one, other = draw(jax.random.key(3)), draw(jax.random.key(4))
    assert not np.allclose(one, other)
    np.testing.assert_array_equal(one, draw(jax.random.key(3)))
    np.testing.assert_array_equal(*jax.jit(lambda: (logits(model), logits(plain)))())


def test_a_scan_over_equal_blocks_cannot_have_rates_that_rise():
    with pytest.raises(ValueError, match="drop_path_rate"):
        build("deit_tiny_patch16_224", **VIT, drop_path_rate=0.1, scan_layers=True)
