import json

import numpy as np
import pytest
import safetensors.numpy

from tests.weights.tiny import state_of, tiny
from vitjax.weights import WeightsError, load_weights
from vitjax.weights.read import read_state

STATE = state_of(tiny())
INDEX = "model.safetensors.index.json"


def _write(folder, shards=3, **changes):
    """A checkpoint in shards as Hugging Face saves it; every third name to the same file."""
    places = {n: f"model-{i % shards + 1:05}-of-{shards:05}.safetensors" for i, n in enumerate(STATE)}
    for file in set(places.values()):
        safetensors.numpy.save_file({n: v for n, v in STATE.items() if places[n] == file}, folder / file)
    index = {"metadata": {"total_size": 1}, "weight_map": places | changes}
    (folder / INDEX).write_text(json.dumps(index))
    return folder


@pytest.mark.parametrize("name", [INDEX, "."])
@pytest.mark.parametrize("shards", [1, 3])
def test_the_index_or_its_folder_gives_all_weights(tmp_path, name, shards):
    state = read_state(_write(tmp_path, shards) / name)
    assert set(state) == set(STATE)
    for key, value in STATE.items():
        np.testing.assert_array_equal(state[key], value)
    assert load_weights(tmp_path / name, tiny()).keys() == {"params"}


def test_an_index_is_known_by_its_content(tmp_path):
    (_write(tmp_path) / INDEX).rename(tmp_path / "weights.JSON")
    assert set(read_state(tmp_path / "weights.JSON")) == set(STATE)


def test_one_shard_is_refused_with_the_name_of_the_index(tmp_path):
    with pytest.raises(WeightsError, match=r"shard 2 of 3.*model\.safetensors\.index\.json, or the folder"):
        load_weights(_write(tmp_path) / "model-00002-of-00003.safetensors", tiny())
    whole = _write(tmp_path, 1) / "model-00001-of-00001.safetensors"
    assert set(read_state(whole)) == set(STATE)


def test_a_lost_shard_is_named(tmp_path):
    (_write(tmp_path) / "model-00003-of-00003.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"index\.json.*'model-00003-of-00003\.safetensors' is not in"):
        read_state(tmp_path)


def test_a_name_that_its_shard_lacks_is_named_with_the_shard(tmp_path):
    _write(
        tmp_path,
        **{"norm.weight": "model-00001-of-00003.safetensors", "gone": "model-00001-of-00003.safetensors"},
    )
    with pytest.raises(WeightsError, match=r"model-00001-of-00003\.safetensors.*missing, 'gone' for one"):
        read_state(tmp_path)


@pytest.mark.parametrize(
    "file", ["../w.safetensors", "/etc/passwd", "a/b.safetensors", "..", "", "a\\b", INDEX]
)
def test_an_index_that_leads_out_of_its_folder_is_refused(tmp_path, file):
    with pytest.raises(WeightsError, match="refused"):
        read_state(_write(tmp_path, **{"norm.weight": file}))


@pytest.mark.parametrize(
    "text",
    ["{}", "{", "[]", '{"weight_map": []}', '{"weight_map": {"a": 1}}', '{"weight_map": {}}', '{"a":' * 9000],
)
def test_json_that_is_no_index_is_one_line_that_names_it(tmp_path, text):
    (tmp_path / INDEX).write_text(text)
    with pytest.raises(WeightsError, match=INDEX) as error:
        read_state(tmp_path / INDEX)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("names", "taken"),
    [
        (["model.safetensors", "model-00001-of-00002.safetensors"], "model.safetensors"),
        (["config.json", "weights.safetensors"], "weights.safetensors"),
        (["model.safetensors", "pytorch_model.npz"], "model.safetensors"),
    ],
)
def test_a_folder_gives_the_one_weight_file_in_it(tmp_path, names, taken):
    for name in names:
        safetensors.numpy.save_file({name: np.zeros(1, "f")}, tmp_path / name)
    assert set(read_state(tmp_path)) == {taken}


def test_a_folder_of_several_weight_files_is_refused_with_their_names(tmp_path):
    for name in ("a.safetensors", "b.pth"):
        safetensors.numpy.save_file({name: np.zeros(1, "f")}, tmp_path / name)
    with pytest.raises(
        WeightsError, match=r"is a folder; give a file in it: it holds 'a\.safetensors', 'b\.pth'"
    ):
        read_state(tmp_path)
