import jax
import numpy as np
import pytest

from tests.models.family import run
from tests.models.test_swin_dynamic import IMAGES, TINY, _made
from vitjax.models import build
from vitjax.models.outputs import dense


@pytest.mark.parametrize("keep_ratio", [0.6, (0.9, 0.7, 0.4)])
def test_a_dynamic_swin_without_pruning_is_the_plain_swin_of_its_weights(keep_ratio):
    model, variables = _made(keep_ratio=keep_ratio)
    plain = build("swin_tiny_patch4_window7_224", **{k: v for k, v in TINY.items() if k != "pruning_loc"})
    found = run(dense(model), variables, IMAGES)
    shapes = jax.eval_shape(plain.init, jax.random.key(0), IMAGES)
    variables = {"params": {name: variables["params"][name] for name in shapes["params"]}}
    np.testing.assert_array_equal(found.logits, run(plain, variables, IMAGES).logits)
    assert found.decisions is None
