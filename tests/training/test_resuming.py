import json
import pathlib
import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from tests.data.test_train_loader import feed
from vitjax.config.train_config import TrainConfig
from vitjax.data.train_loader import Origin
from vitjax.errors import UserError
from vitjax.training.checkpoint import MANIFEST, Checkpoints
from vitjax.training.output import SILENT, Output
from vitjax.training.resuming import check_checkpoints, feed_notes, offset_of, origin_of, say_batch_size
from vitjax.training.session import Progress


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A run of 30 steps, saved at 10, 20 and 30, of which the last two are kept."""
    out = tmp_path_factory.mktemp("ended")
    saves = Checkpoints(out / "checkpoints", keep=2)
    for step in (10, 20, 30):
        saves.save(step, {"step": jnp.int32(step)}, {})
    saves.wait()
    (out / "metrics.jsonl").write_text("".join(f'{{"step": {step}}}\n' for step in range(1, 31)))
    (out / "results.json").write_text(json.dumps({"step": 30}))
    return out


def copy(ended: pathlib.Path, tmp_path: pathlib.Path, *gone: str) -> pathlib.Path:
    shutil.copytree(ended, out := tmp_path / "run")
    for name in gone:
        shutil.rmtree(out / name) if (out / name).is_dir() else (out / name).unlink()
    return out


def to(said: list[str]) -> Output:
    return Output(said.append, said.append)


def check(out: pathlib.Path, every: int = 10, said: list[str] | None = None) -> None:
    saves = Checkpoints(out / "checkpoints", keep=2)
    check_checkpoints(out, saves, every=every, output=SILENT if said is None else to(said))


RECORDS = ["checkpoints.json", "metrics.jsonl", "results.json"]


@pytest.mark.parametrize("kept", RECORDS)
@pytest.mark.parametrize("kind", ["removed", "empty", "dangling", "without manifests"])
def test_checkpoints_that_are_gone_are_missed_by_any_record_of_them(ended, tmp_path, kept, kind):
    out = copy(ended, tmp_path, *(name for name in RECORDS if name != kept))
    if kind == "without manifests":
        for manifest in out.glob(f"checkpoints/*/{MANIFEST}"):
            manifest.unlink()
    else:
        shutil.rmtree(out / "checkpoints")
        if kind == "empty":
            (out / "checkpoints").mkdir()
        if kind == "dangling":
            (out / "checkpoints").symlink_to(tmp_path / "not mounted")
    with pytest.raises(
        UserError, match=r"knows a run of 30 steps, but .*restore that folder.*another --workdir"
    ):
        check(out)


def test_a_run_killed_before_its_first_checkpoint_may_begin_again(ended, tmp_path, said):
    out = copy(ended, tmp_path, "checkpoints", "checkpoints.json", "results.json")
    check(out, every=1000, said=said)
    shutil.rmtree(out)
    out.mkdir()
    check(out, said=said)
    assert said == []


def test_a_checkpoint_that_lost_its_manifest_is_not_said_to_be_unfinished(ended, tmp_path, said):
    out = copy(ended, tmp_path)
    (out / "checkpoints" / "30" / MANIFEST).unlink()
    with pytest.raises(UserError, match=r"step 30 .* was finished, .*delete .*/30 to resume from step 20"):
        check(out)
    shutil.rmtree(out / "checkpoints" / "30")
    check(out, said=said)  # as the line says
    (line,) = said
    assert "knows a run of 30 steps, the last checkpoint" in line and "step 20" in line


def test_a_save_that_a_kill_cut_short_stops_nothing(ended, tmp_path, said):
    out = copy(ended, tmp_path)
    (out / "checkpoints" / "40" / "state").mkdir(parents=True)
    check(out, said=said)
    assert said == []


@pytest.mark.parametrize("text", ["", "[]", '{"step": "many"}', '{"step": 1e999}', "\0"])
def test_records_that_cannot_be_read_are_no_records(tmp_path, text):
    (tmp_path / "results.json").write_text(text)
    (tmp_path / "checkpoints.json").write_text(text)
    (tmp_path / "metrics.jsonl").write_bytes(b"\xff\n")
    check(tmp_path)


def seen(one, steps) -> list[int]:
    return np.concatenate([one.index(step) for step in steps]).tolist()


@pytest.mark.parametrize(("before", "after"), [(8, 4), (4, 7), (5, 3), (6, 25)])
def test_with_another_batch_size_no_image_of_the_epoch_comes_again(before, after):
    first = feed(batch=before)
    for step in range(2 * first.steps_per_epoch):
        progress = Progress(feed=feed_notes(first))
        second = feed(batch=after, origin=origin_of(progress, step, batch_size=after, per_epoch=25))
        epoch, place = divmod(step, first.steps_per_epoch)
        rest = (25 - place * before) // after
        ours = seen(first, range(step - place, step)) if place else []
        if rest:
            ours += seen(second, range(step, step + rest))
        order = seen(feed(batch=25), [epoch])
        assert ours == order[: len(ours)] and 25 - len(ours) < max(before, after)
        assert seen(second, [step + rest]) == seen(feed(batch=25), [epoch + 1])[:after]


def test_a_third_batch_size_counts_from_the_second_and_the_same_one_changes_nothing():
    progress = Progress(feed=feed_notes(feed(batch=8)))
    second = origin_of(progress, 2, batch_size=3, per_epoch=25)
    assert second == Origin(2, 0, 16)
    progress = Progress(feed=feed_notes(feed(batch=3, origin=second)))
    assert origin_of(progress, 4, batch_size=3, per_epoch=25) == second
    assert origin_of(progress, 4, batch_size=2, per_epoch=25) == Origin(4, 0, 22)
    assert origin_of(Progress(), 4, batch_size=2, per_epoch=25) == Origin()


def test_epochs_and_the_schedule_resume_where_they_were(said):
    before = feed(count=24, batch=8)
    assert [before.epochs(step) for step in (0, 1, 3, 7)] == [0, 1 / 3, 1, 7 / 3]
    after = feed(count=24, batch=4, origin=Origin(4, 1, 8))
    assert [after.epochs(step) for step in (4, 7, 8, 14)] == pytest.approx([4 / 3, 11 / 6, 2, 3])
    assert offset_of(TrainConfig(epochs=6.0), after) == 4  # step 4 of 3 an epoch is step 8 of 6 an epoch
    assert offset_of(TrainConfig(steps=50), after) == 0
    assert offset_of(TrainConfig(epochs=6.0), before) == 0
    progress = Progress(feed=feed_notes(before))
    say_batch_size(progress, 4, TrainConfig(), before, 30, output=to(said))
    assert said == []
    say_batch_size(progress, 4, TrainConfig(), after, 32, output=to(said))
    (line,) = said
    assert "8 -> 4 at step 4: epoch 1 resumes behind the 8 images" in line
    assert "an epoch is now 6 steps; the run ends at step 32, its learning rate resumes at epoch 1.33" in line
