"""Which set of weights of a file is loaded is a field of both configs, and the programs say which."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

from vitjax.cli import flags
from vitjax.config import EvalConfig, ModelConfig
from vitjax.config.train_config import StudentConfig, TrainConfig
from vitjax.errors import EntryError
from vitjax.models import build
from vitjax.reranker import Reranker
from vitjax.training import init_state
from vitjax.training.data import model_input
from vitjax.weights.write import write_weights

SMALL = {"img_size": 8, "patch_size": 4, "embed_dim": 8, "depth": 1, "num_heads": 2}
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


@pytest.mark.parametrize("loaded", [evaluated, trained])
def test_the_entry_of_a_config_says_which_weights_are_loaded(loaded, file):
    for prefix, mark in SETS.items():
        bias = loaded(file, prefix.strip("."))["params"]["patch_embed"]["proj"]["bias"]
        np.testing.assert_array_equal(np.asarray(bias), mark)


@pytest.mark.parametrize("entry", ["", "third"])
@pytest.mark.parametrize("loaded", [evaluated, trained])
def test_without_one_that_tells_the_candidates_are_listed(loaded, file, entry):
    with pytest.raises(EntryError, match=r"'first', 'second'"):
        loaded(file, entry)


@pytest.mark.parametrize(
    ("config_type", "name", "flag"),
    [(EvalConfig, "demo", "--config.entry=ENTRY"), (TrainConfig, "smoke", "--config.model.entry=ENTRY")],
)
def test_the_program_says_which_flag_tells(config_type, name, flag, capsys):
    def main(config, workdir):
        raise EntryError("several sets of weights: 'first', 'second'.")

    assert flags._run(main, config_type, "", ["prog", "--config", name, "--workdir=w"]) == 1
    assert capsys.readouterr().err == f"prog: several sets of weights: 'first', 'second'. Here: {flag}\n"
