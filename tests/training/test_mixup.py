import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.training.mixup import mix, soft_labels


def test_smoothed_labels_are_shares_of_classes():
    found = soft_labels(jnp.array([2]), 4, 0.2)
    np.testing.assert_allclose(found, [[0.05, 0.05, 0.85, 0.05]], rtol=1e-6)


@pytest.mark.parametrize(("mixup", "cutmix"), [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)])
def test_labels_hold_the_share_of_pixels_that_each_image_has(mixup, cutmix):
    images = jnp.stack([jnp.zeros((12, 10, 3)), jnp.ones((12, 10, 3))])
    labels = jnp.eye(2)
    shares = []
    for key in jax.random.split(jax.random.key(0), 12):
        mixed, soft = mix(key, images, labels, mixup=mixup, cutmix=cutmix)
        np.testing.assert_allclose(mixed.mean(axis=(1, 2, 3)), soft[:, 1], atol=1e-5)
        np.testing.assert_allclose(soft.sum(axis=1), 1, rtol=1e-6)
        shares.append(float(soft[0, 0]))
        if not mixup:
            assert set(np.unique(mixed)) <= {0.0, 1.0}
    assert np.std(shares) > 0.1


def test_without_either_nothing_changes(rng):
    images, labels = jnp.ones((2, 4, 4, 3)), jnp.eye(2)
    found = mix(rng, images, labels, mixup=0.0, cutmix=0.0)
    assert found[0] is images
    assert found[1] is labels
