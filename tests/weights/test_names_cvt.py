import logging

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from vitjax.models import build
from vitjax.weights import WeightsError, load_weights, load_with_report
from vitjax.weights.rename import to_name

SMALL = {
    "img_size": 16,
    "embed_dim": (4, 4, 8),
    "depths": (1, 1, 1),
    "num_heads": (1, 1, 2),
    "num_classes": 3,
}
_CONV = ".attention.attention.convolution_projection_{}.convolution_projection."
# Microsoft's name to Hugging Face's, one replacement after the other.
_HUGGING_FACE = (
    ("stage", "cvt.encoder.stages."),
    (".blocks.", ".layers."),
    (".patch_embed.proj.", ".embedding.convolution_embeddings.projection."),
    (".patch_embed.norm.", ".embedding.convolution_embeddings.normalization."),
    (".attn.proj.", ".attention.output.dense."),
    (".norm1.", ".layernorm_before."),
    (".norm2.", ".layernorm_after."),
    (".mlp.fc1.", ".intermediate.dense."),
    (".mlp.fc2.", ".output.dense."),
    *(
        (old.format(letter), new.format(word))
        for letter, word in (("q", "query"), ("k", "key"), ("v", "value"))
        for old, new in (
            (".attn.proj_{}.", ".attention.attention.projection_{}."),
            (".attn.conv_proj_{}.conv.", _CONV + "convolution."),
            (".attn.conv_proj_{}.bn.", _CONV + "normalization."),
        )
    ),
)


def _microsoft(seed=0) -> dict[str, np.ndarray]:
    """A checkpoint in Microsoft's layout, by the paths of the model's variables; counters included."""
    model, chance = build("cvt_13", **SMALL), np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 16, 16, 3))))
    state = {}
    for kind in ("params", "batch_stats"):
        for path, leaf in flatten_dict(shapes[kind]).items():
            value = chance.uniform(0.1, 1.0, size=leaf.shape).astype("f")
            if path[-1] == "kernel":
                value = value.T if value.ndim == 2 else value.transpose(3, 2, 0, 1)
            state[to_name(path)] = value
    for name in [n for n in state if n.endswith("running_mean")]:
        state[name.replace("running_mean", "num_batches_tracked")] = np.int64(7)
    return state


def _hugging_face(name: str) -> str:
    """Hugging Face's name of Microsoft's `name`."""
    if not name.startswith("stage"):
        return name.replace("norm.", "layernorm.").replace("head.", "classifier.")
    for old, new in _HUGGING_FACE:
        name = name.replace(old, new)
    return name


@pytest.mark.parametrize("prefix", ["", "module."])
def test_both_layouts_put_the_same_numbers_in_the_same_places(prefix):
    state = _microsoft()
    ours, report = load_with_report({prefix + k: v for k, v in state.items()}, build("cvt_13", **SMALL))
    assert report.layout == "Microsoft CvT" and not report.notes and set(ours) == {"params", "batch_stats"}
    theirs, report = load_with_report(
        {prefix + _hugging_face(k): v for k, v in state.items()}, build("cvt_13", **SMALL, act="gelu")
    )
    assert report.layout == "Hugging Face CvT" and not report.notes
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)
    block = ours["params"]["stage1"]["blocks_0"]["attn"]
    kernel = state["stage1.blocks.0.attn.conv_proj_k.conv.weight"]
    np.testing.assert_array_equal(
        block["conv_proj_k"]["conv"]["kernel"][:, :, 0], kernel[:, 0].transpose(1, 2, 0)
    )
    stats = ours["batch_stats"]["stage2"]["blocks_0"]["attn"]["conv_proj_v"]["bn"]
    np.testing.assert_array_equal(stats["var"], state["stage2.blocks.0.attn.conv_proj_v.bn.running_var"])


@pytest.mark.parametrize(("act", "layout"), [("gelu", "microsoft"), ("quick_gelu", "hugging face")])
def test_the_other_layouts_activation_is_said_aloud(act, layout, caplog):
    state = _microsoft()
    if layout == "hugging face":
        state = {_hugging_face(k): v for k, v in state.items()}
    wanted = {"gelu": "quick_gelu", "quick_gelu": "gelu"}[act]
    with caplog.at_level(logging.WARNING):
        load_weights(state, build("cvt_13", **SMALL, act=act))
    assert f"build with act={wanted!r} for the same" in caplog.text
    _, report = load_with_report(state, build("cvt_13", **SMALL, act=act))
    assert f"computes with act={wanted!r}" in str(report).splitlines()[0]


def test_a_missing_running_statistic_is_an_error():
    state = _microsoft()
    del state["stage0.blocks.0.attn.conv_proj_q.bn.running_var"]
    with pytest.raises(WeightsError, match=r"missing: stage0\.blocks\.0\.attn\.conv_proj_q\.bn\.running_var"):
        load_weights(state, build("cvt_13", **SMALL))


def test_a_checkpoint_of_another_depth_does_not_fit():
    with pytest.raises(WeightsError, match=r"missing: stage2\.blocks\.1\."):
        load_weights(_microsoft(), build("cvt_13", **SMALL | {"depths": (1, 1, 2)}))
