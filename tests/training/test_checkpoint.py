import json
import pathlib
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from vitjax import sharding
from vitjax.training.checkpoint import MANIFEST, CheckpointError, Checkpoints, _bit_sums


def state(step: int) -> dict:
    """What a state holds: matrices, counters, small types, an empty part."""
    return {
        "params": {"kernel": jax.random.normal(jax.random.key(step), (8, 6)), "bias": jnp.zeros(6)},
        "half": jnp.arange(7, dtype=jnp.bfloat16),
        "step": jnp.int32(step),
        "ema": {},
    }


def like(tree: dict, sharding=None) -> dict:
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding or x.sharding), tree
    )


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    root = tmp_path_factory.mktemp("checkpoints")
    saves = Checkpoints(root, keep=2)
    for step in (1, 2, 3):
        saves.save(step, state(step), {"loss": step / 2})
    saves.wait()
    return root


def test_the_last_ones_are_kept_and_come_back_exactly_with_their_notes(saved):
    saves = Checkpoints(saved, keep=2)
    assert saves.steps() == [2, 3]
    found, notes = saves.load(3, like(state(3)))
    jax.tree.map(np.testing.assert_array_equal, found, state(3))
    assert notes == {"loss": 1.5}


def test_a_copy_that_somebody_put_beside_them_is_no_checkpoint(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "saves")
    shutil.copytree(saved / "3", tmp_path / "saves" / "1000.bak")
    (tmp_path / "saves" / "7 old").mkdir()
    saves = Checkpoints(tmp_path / "saves", keep=2)
    assert saves.steps() == [2, 3] and saves.unfinished() == []


def test_a_state_saved_on_one_device_loads_on_two(saved):
    mesh = sharding.make_mesh()
    spread = NamedSharding(mesh, PartitionSpec("data"))
    whole = NamedSharding(mesh, PartitionSpec())
    wanted = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=spread if x.shape[:1] == (8,) else whole),
        state(3),
    )
    found, _ = Checkpoints(saved, keep=2).load(3, wanted)
    assert found["params"]["kernel"].sharding == spread
    jax.tree.map(np.testing.assert_array_equal, found, state(3))


def damages(path: pathlib.Path):
    content = bytearray(path.read_bytes())
    if content:
        content[len(content) // 2] ^= 1
    return {"flipped": bytes(content), "truncated": bytes(content[:-1]), "empty": b"", "missing": None}


@pytest.mark.parametrize("kind", ["flipped", "truncated", "empty", "missing"])
def test_damage_of_any_file_is_named_with_the_steps_that_are_whole(saved, tmp_path, kind):
    root = tmp_path / "checkpoints"
    shutil.copytree(saved, root)
    files = [p for p in (root / "3").rglob("*") if p.is_file() and p.stat().st_size]
    assert len(files) > 3
    for path in files:
        before, after = path.read_bytes(), damages(path)[kind]
        path.unlink() if after is None else path.write_bytes(after)
        saves = Checkpoints(root, keep=2)
        if kind == "missing" and path.name == MANIFEST:
            assert saves.steps() == [2]
            assert saves.unfinished() == [3]
        else:
            with pytest.raises(
                CheckpointError, match=r"whole steps: 2; delete .*/3 to resume from step 2"
            ) as error:
                saves.load(3, like(state(3)))
            assert path.name in str(error.value)
        path.write_bytes(before)
    Checkpoints(root, keep=2).load(3, like(state(3)))


def test_other_numbers_than_were_saved_are_found_whatever_the_files_say(saved, tmp_path):
    root = tmp_path / "checkpoints"
    shutil.copytree(saved, root)
    shutil.rmtree(root / "3" / "state")
    shutil.copytree(root / "2" / "state", root / "3" / "state")
    manifest = root / "3" / MANIFEST
    whole, other = (json.loads((root / n / MANIFEST).read_text()) for n in "32")
    from vitjax.training.checkpoint import _hash_of

    whole["content"]["files"] = {
        name: (other if name.startswith("state/") else whole)["content"]["files"].get(name, value)
        for name, value in (whole["content"]["files"] | other["content"]["files"]).items()
        if (root / "3" / name).exists()
    }
    whole["sha256"] = _hash_of(whole["content"])
    manifest.write_text(json.dumps(whole))
    with pytest.raises(CheckpointError, match="hold other numbers than were saved"):
        Checkpoints(root, keep=2).load(3, like(state(3)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8", "bool"])
def test_the_sum_of_a_leaf_tells_any_changed_or_exchanged_number(dtype):
    def total(values: np.ndarray) -> int:
        return int(_bit_sums({"leaf": jnp.array(values).astype(dtype)})["leaf"])

    values = np.array([[0, 1, 0], [1, 1, 0]])
    for place in np.ndindex(2, 3):
        changed = values.copy()
        changed[place] = 1 - changed[place]
        assert total(changed) != total(values)
    assert total(values[:, [1, 0, 2]]) != total(values) != total(values[:, [2, 1, 0]])
    assert total(values[::-1]) != total(values)


def test_the_state_of_another_model_is_refused_by_name(saved):
    wanted = like(state(3) | {"half": jnp.zeros(9, jnp.bfloat16)})
    with pytest.raises(CheckpointError, match=r"another model: half is \[\[7\], 'bfloat16'\] in it"):
        Checkpoints(saved, keep=2).load(3, wanted)


def test_the_state_of_another_optimiser_is_not_said_to_be_of_another_model(tmp_path):
    saves = Checkpoints(tmp_path, keep=2)
    saves.save(1, {"opt": {"mu": jnp.zeros(2)}}, {})
    saves.wait()
    with pytest.raises(CheckpointError, match=r"another optimiser: opt\.mu is \[\[2\], 'float32'\] in it"):
        saves.load(1, like({"opt": {"mu": jnp.zeros(3)}}))


def test_a_save_that_fails_is_never_the_latest_and_the_next_one_counts(tmp_path):
    saves = Checkpoints(tmp_path, keep=3)
    large = {"noise": jax.random.normal(jax.random.key(0), (200, 200))}
    saves.save(1, large, {})
    saves.wait()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, limits[1]))  # no file may be larger, as on a full disk
    try:
        saves.save(2, large, {})
        with pytest.raises(CheckpointError, match=r"step 2 could not .* step 1 is whole; .* again"):
            saves.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert saves.latest() == 1
    assert Checkpoints(tmp_path, keep=3).latest() == 1
    for step in (2, 3):
        saves.save(step, large, {})
    saves.wait()
    assert saves.steps() == [1, 2, 3]


def test_a_state_that_may_be_bad_pushes_no_good_one_out(tmp_path):
    saves = Checkpoints(tmp_path, keep=2)
    for step in (1, 2, 3):
        saves.save(step, state(step), {}, prune=step != 3)
    saves.wait()
    assert saves.steps() == [1, 2, 3]
    saves.save(4, state(4), {})
    saves.wait()
    assert saves.steps() == [3, 4]


@pytest.mark.parametrize("name", ["7", "12", "3000"])
def test_a_folder_renamed_to_another_step_is_refused(saved, tmp_path, name):
    root = tmp_path / "checkpoints"
    shutil.copytree(saved, root)
    (root / "2").rename(root / name)
    saves = Checkpoints(root, keep=2)
    assert saves.latest() == int(name)
    with pytest.raises(
        CheckpointError, match=rf"is the one of step 2 under .*; whole steps: 3; delete .*/{name} "
    ):
        saves.load(int(name), like(state(2)))
    (root / name).rename(root / f"0{name}")  # no save names its folder so
    assert saves.steps() == [3] and saves.unfinished() == []


def test_the_last_finished_step_is_noted_beside_the_folder(tmp_path):
    saves = Checkpoints(tmp_path / "checkpoints", keep=2)
    assert saves.recorded() == 0 and not saves.root.exists()
    for step in (3, 5):
        saves.save(step, state(step), {"loss": step})
        saves.wait()
        assert saves.recorded() == step
    assert saves.notes(5) == {"loss": 5} and saves.notes(4) == {}
    shutil.rmtree(saves.root)
    assert Checkpoints(tmp_path / "checkpoints", keep=2).recorded() == 5


def test_a_note_that_is_not_a_number_comes_back_as_none(tmp_path):
    saves = Checkpoints(tmp_path, keep=2)
    saves.save(1, state(1), {"loss": float("nan"), "metrics": {"accuracy": float("inf")}})
    saves.wait()
    assert "NaN" not in (tmp_path / "1" / MANIFEST).read_text()
    assert saves.load(1, like(state(1)))[1] == {"loss": None, "metrics": {"accuracy": None}}


def test_a_save_that_was_never_finished_goes_once_a_later_one_is_whole(tmp_path):
    Checkpoints(tmp_path, keep=2)
    for step in (1, 5):
        (tmp_path / str(step) / "state").mkdir(parents=True)
    saves = Checkpoints(tmp_path, keep=2)
    assert saves.unfinished() == [1, 5]
    saves.save(3, state(3), {})
    saves.wait()
    assert saves.unfinished() == [5]
