"""Which set of weights of a file is loaded is a field of both configs, and the programs say which."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from vitjax.cli import flags
from vitjax.config import EvalConfig, ModelConfig
from vitjax.config.train_config import DistillConfig, MetricConfig, SparsifyConfig, StudentConfig, TrainConfig
from vitjax.errors import EntryError
from vitjax.models import build
from vitjax.pretrained import MODELS
from vitjax.reranker import Reranker
from vitjax.training import init_state
from vitjax.training.data import model_input
from vitjax.weights.write import write_weights

SMALL = {"img_size": 8, "patch_size": 4, "embed_dim": 8, "depth": 4, "num_heads": 2}
SETS = {"first.": 3.0, "second.": 5.0}  # the bias of the patch embedding tells which was taken


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> str:
    """Weights of a small model under each of two prefixes that say nothing."""
    path = tmp_path_factory.mktemp("weights") / "one.safetensors"
    model = build("deit_small_patch16_224", num_classes=3, **SMALL)
    write_weights(path, jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 8, 8, 3))), {})
    one, both = safetensors.numpy.load_file(path), {}
    for prefix, mark in SETS.items():
        marked = one | {"patch_embed.proj.bias": np.full_like(one["patch_embed.proj.bias"], mark)}
        both |= {prefix + name: value for name, value in marked.items()}
    safetensors.numpy.save_file(both, path.with_name("both.safetensors"))
    return str(path.with_name("both.safetensors"))


def evaluated(weights: str, entry: str) -> dict:
    model = ModelConfig(name="deit_small_patch16_224", **SMALL)
    return Reranker.from_config(EvalConfig(weights=weights, entry=entry, model=model)).variables


def trained(weights: str, entry: str) -> dict:
    student = StudentConfig(name="deit_small_patch16_224", weights=weights, entry=entry, **SMALL)
    config = TrainConfig(model=student)
    recipe = model_input(config)
    return init_state.initial(config, init_state.build(config, recipe, classes=3), recipe)[0]


def pruned(weights: str, entry: str) -> dict:
    """The dense teacher of a dynamic model, which starts from another file."""
    student = StudentConfig(name="dynamicvit_deit_small_patch16_224", entry="ours", **SMALL)
    config = TrainConfig(model=student, sparsify=SparsifyConfig(teacher=weights, teacher_entry=entry))
    recipe = model_input(config)
    return init_state.initial(config, init_state.build(config, recipe, classes=3), recipe)[1]


def distilled(weights: str, entry: str) -> dict:
    """The teacher of embeddings."""
    student, metric = StudentConfig(name="deit_small_patch16_224", **SMALL), MetricConfig(embed_dim=3)
    distill = DistillConfig(teacher="small", teacher_weights=weights, teacher_entry=entry)
    config = TrainConfig(task="distill", model=student, metric=metric, distill=distill)
    return init_state.open_teacher(config, model_input(config), 7, 3)[1]


LOADED = [evaluated, trained, pruned, distilled]


@pytest.fixture(autouse=True)
def small_teacher(monkeypatch):
    card = MODELS["deit_small_patch16_224"]
    monkeypatch.setitem(MODELS, "small", dataclasses.replace(card, fields={**card.fields, **SMALL}))


@pytest.mark.parametrize("loaded", LOADED)
def test_the_entry_of_a_config_says_which_weights_are_loaded(loaded, file):
    for prefix, mark in SETS.items():
        bias = loaded(file, prefix.strip("."))["params"]["patch_embed"]["proj"]["bias"]
        np.testing.assert_array_equal(np.asarray(bias), mark)


@pytest.mark.parametrize("entry", ["", "third"])
@pytest.mark.parametrize("loaded", LOADED)
def test_without_one_that_tells_the_candidates_are_listed(loaded, file, entry):
    with pytest.raises(EntryError, match=r"'first', 'second'") as error:
        loaded(file, entry)
    fields = {pruned: ("sparsify.teacher_entry",), distilled: ("distill.teacher_entry",)}
    assert error.value.fields == fields.get(loaded, ())


@pytest.mark.parametrize(("ours", "theirs", "mark"), [("first", "", 3.0), ("first", "second", 5.0)])
def test_a_teacher_without_a_file_of_its_own_has_the_students_entry_unless_it_names_one(
    file, ours, theirs, mark
):
    student = StudentConfig(name="dynamicvit_deit_small_patch16_224", weights=file, entry=ours, **SMALL)
    config = TrainConfig(model=student, sparsify=SparsifyConfig(teacher_entry=theirs))
    recipe = model_input(config)
    found = init_state.initial(config, init_state.build(config, recipe, classes=3), recipe)
    marks = [np.asarray(tree["params"]["patch_embed"]["proj"]["bias"]).max() for tree in found]
    assert marks == [3.0, mark]


@pytest.mark.parametrize(
    ("config_type", "name", "flag"),
    [
        (EvalConfig, "demo", "--config.entry=ENTRY"),
        (TrainConfig, "smoke", "--config.model.entry=ENTRY"),
        (TrainConfig, "smoke", "--config.sparsify.teacher_entry=ENTRY"),
    ],
)
def test_the_program_says_which_flag_tells(config_type, name, flag, capsys):
    def main(config, workdir):
        fields = ["sparsify.teacher_entry"] if "teacher" in flag else []
        raise EntryError("several sets of weights: 'first', 'second'.", fields=fields)

    assert flags._run(main, config_type, "", ["prog", "--config", name, "--workdir=w"]) == 1
    assert capsys.readouterr().err == f"prog: several sets of weights: 'first', 'second'. Here: {flag}\n"
