import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax.config.train_config import OptimConfig
from vitjax.training.optim import decayed, make_optimizer, make_rates, without_gradient

PARAMS = {
    "blocks_0": {"mlp": {"fc1": {"kernel": jnp.ones((2, 3)), "bias": jnp.ones(3)}}},
    "cls_token": jnp.ones((1, 1, 2)),
    "score_predictor_0": {"in_conv_1": {"kernel": jnp.ones((2, 2))}},
}
CONFIG = OptimConfig(
    lr=1.0, min_lr=0.1, warmup_epochs=1.0, freeze_epochs=2.0, backbone_lr=0.01, frozen=("cls_token",)
)


def rates_at(step: int, config: OptimConfig = CONFIG, params=PARAMS) -> dict:
    _, rates = make_rates(config, params, steps=40, steps_per_epoch=10)
    found = rates(jnp.int32(step))
    new = found.get("score_predictor_0")
    return {
        "backbone": float(found["blocks_0"]["mlp"]["fc1"]["kernel"]),
        "cls": float(found["cls_token"]),
        "new": None if new is None else float(new["in_conv_1"]["kernel"]),
    }


@pytest.mark.parametrize(
    ("step", "new", "backbone"),
    [
        (0, 0.0, 0.0),
        (5, 5 / 9, 0.0),
        (9, 1.0, 0.0),
        (10, 1.0, 0.0),
        (19, None, 0.0),
        (20, None, None),
        (25, 0.55, 0.0055),
        (40, 0.1, 0.001),
    ],
)
def test_predictors_learn_at_once_and_the_backbone_follows_later_at_a_share(step, new, backbone):
    found = rates_at(step)
    if backbone is None:
        assert found["backbone"] == pytest.approx(0.01 * found["new"]) and found["backbone"] > 0
    else:
        assert found["backbone"] == pytest.approx(backbone, abs=1e-6)
    assert found["cls"] == 0
    if new is not None:
        assert found["new"] == pytest.approx(new, abs=1e-6)


def test_a_schedule_may_start_behind_its_first_step():
    for step in (0, 7, 18, 30):
        _, rates = make_rates(CONFIG, PARAMS, steps=40, steps_per_epoch=10, offset=7)
        found = rates(jnp.int32(step))
        assert float(found["score_predictor_0"]["in_conv_1"]["kernel"]) == rates_at(step + 7)["new"]
        assert float(found["blocks_0"]["mlp"]["fc1"]["kernel"]) == rates_at(step + 7)["backbone"]


def test_parts_have_their_own_rates():
    params = PARAMS | {"metric": {"beta": jnp.ones(3)}, "head": {"kernel": jnp.ones((2, 2))}}
    _, rates = make_rates(CONFIG, params, steps=40, steps_per_epoch=10, new=("head",), metric_rate=50.0)
    found = rates(jnp.int32(10))
    assert float(found["metric"]["beta"]) == 50
    assert float(found["head"]["kernel"]) == 1
    assert float(found["blocks_0"]["mlp"]["fc1"]["bias"]) == 0


def test_a_plain_model_moves_as_a_whole_from_the_start():
    plain = {name: tree for name, tree in PARAMS.items() if not name.startswith("score")}
    assert rates_at(10, params=plain)["backbone"] == 1.0


def test_a_frozen_module_never_moves_and_has_no_gradient():
    frozen = ("cls_token", "blocks_0")
    _, rates = make_rates(OptimConfig(frozen=frozen), PARAMS, steps=40, steps_per_epoch=10)
    assert float(rates(jnp.int32(20))["blocks_0"]["mlp"]["fc1"]["kernel"]) == 0

    def total(params):
        return sum(x.sum() for x in jax.tree.leaves(without_gradient(params, frozen)))

    found = jax.grad(total)(PARAMS)
    assert not found["cls_token"].any()
    assert not found["blocks_0"]["mlp"]["fc1"]["kernel"].any()
    assert found["score_predictor_0"]["in_conv_1"]["kernel"].all()


def test_only_matrices_decay():
    found = decayed(PARAMS)
    assert found["blocks_0"]["mlp"]["fc1"] == {"kernel": True, "bias": False}
    assert found["cls_token"] is False


def test_the_first_update_is_adams_sign_plus_decay():
    tx = make_optimizer(OptimConfig(weight_decay=0.5))
    grads = jax.tree.map(lambda x: 2 * jnp.ones_like(x), PARAMS)
    updates, _ = tx.update(grads, tx.init(PARAMS), PARAMS)
    fc1 = updates["blocks_0"]["mlp"]["fc1"]
    np.testing.assert_allclose(fc1["bias"], 1, rtol=1e-5)
    np.testing.assert_allclose(fc1["kernel"], 1 + 0.5, rtol=1e-5)


def test_a_run_may_go_on_with_another_clip():
    states = [jax.eval_shape(make_optimizer(OptimConfig(clip=clip)).init, PARAMS) for clip in (0.0, 1.0)]
    assert jax.tree.structure(states[0]) == jax.tree.structure(states[1])


def test_a_frozen_name_that_nothing_has_is_refused_with_the_nearest():
    config = OptimConfig(frozen=("cls_token", "block_0"))
    with pytest.raises(ValueError, match=r"'block_0' shall be frozen, .*nearest: 'blocks_0'"):
        make_rates(config, PARAMS, steps=40, steps_per_epoch=10)
