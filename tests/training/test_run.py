"""Parts of train.py that need no process of their own."""

import json
import pathlib

import pytest

import train
from vitjax.config.train_config import TrainConfig
from vitjax.data.transforms import preprocess
from vitjax.errors import UserError
from vitjax.training import loop
from vitjax.training.checkpoint import Checkpoints
from vitjax.training.output import Output
from vitjax.training.preemption import Stop
from vitjax.training.session import Progress, Session, Throughput
from vitjax.training.state import State


@pytest.fixture
def said() -> list[str]:
    return []


def to(said: list[str]) -> Output:
    return Output(said.append, said.append)


def session(out: pathlib.Path) -> Session:
    return Session(out, Checkpoints(out / "checkpoints", keep=2), Stop(), Throughput(8))


@pytest.mark.parametrize("epochs", [0.0, 0.04])
def test_epochs_of_less_than_a_step_are_refused(epochs):
    with pytest.raises(UserError, match=r"epochs of .* steps are no step"):
        train.count_steps(TrainConfig(epochs=epochs), 10)


def test_a_warm_up_longer_than_the_run_is_said(said):
    config = TrainConfig(epochs=6.0)
    assert train.count_steps(config, 10, output=to(said)) == 60
    assert said == []
    config.steps = 20
    assert train.count_steps(config, 10, output=to(said)) == 20
    assert ["the warm-up has 50 steps, the run 20" in line for line in said] == [True]


def test_a_score_that_is_not_a_number_is_never_the_best(tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "export", lambda path, _: path.touch())
    state = State(1, {}, (), {}, 0, 0)

    def best(progress: Progress, score: float):
        return loop.note_evaluation("accuracy", state, progress, {"accuracy": score}, session(tmp_path)).best

    assert best(Progress(), float("nan")) is None
    assert not (tmp_path / "best.safetensors").exists()
    assert best(Progress(), 0.0) == {"step": 1, "score": 0.0}
    assert best(Progress(best={"step": 0, "score": 0.5}), 0.6) == {"step": 1, "score": 0.6}


def test_the_running_mean_and_the_parameters_each_have_their_own_best(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(loop, "export", lambda path, state: written.append((path.name, state.evaluated)))
    progress = Progress()
    for step, mean, raw in [(1, 0.5, 0.3), (2, 0.4, 0.6), (3, 0.7, float("nan"))]:
        found = {"accuracy": mean, "raw_accuracy": raw}
        state = State(step, {"w": 1}, (), {"w": 2}, 0, 0)
        progress = loop.note_evaluation("accuracy", state, progress, found, session(tmp_path))
    best, raw = ("best.safetensors", {"w": 2}), ("best_raw.safetensors", {"w": 1})
    assert written == [best, raw, raw, best]
    assert progress.best == {"step": 3, "score": 0.7} and progress.best_raw == {"step": 2, "score": 0.6}


def note(out, said: list[str], **fields) -> list[str]:
    """What is said of a run with these fields."""
    said.clear()
    train.note_run(TrainConfig(**fields), preprocess("deit_small_patch16_224"), out, output=to(said))
    return said


def test_another_config_than_at_the_beginning_is_said_with_both_values(tmp_path, said):
    assert note(tmp_path, said) == note(tmp_path, said) == []
    (line,) = note(tmp_path, said, seed=3)
    assert "config.seed: 0 -> 3" in line
    many = {"epochs": 1.0, "steps": 2, "eval_every": 3, "log_every": 4, "max_skipped": 5, "profile": 6}
    (line,) = note(tmp_path, said, seed=3, batch_size=7, wandb="[name]", **many)
    assert line.endswith(", and 1 more")


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"config": 3}'])
def test_a_damaged_beginning_is_said_and_harms_nothing(tmp_path, said, text):
    (tmp_path / "run.json").write_text(text)
    (line,) = note(tmp_path, said)
    assert "cannot be read" in line


def test_the_throughput_of_an_older_finished_run_is_known_from_its_results(tmp_path):
    assert train.last_pace(tmp_path / "results.json") == 0
    (tmp_path / "results.json").write_text('{"images_per_second": 12.5}')
    assert train.last_pace(tmp_path / "results.json") == 12.5


def test_the_clock_counts_on_where_the_run_is_resumed():
    first = Throughput(8)
    for _ in range(3):
        with first.waiting():
            pass
    first.lap()
    notes = json.loads(json.dumps(first.notes()))
    assert notes["images"] == 24 and notes["seconds"] > 0
    resumed = Throughput(4, notes)
    assert resumed.overall() == first.overall() > 0
    with resumed.waiting():
        pass
    resumed.lap()
    assert resumed.notes()["images"] == 28 and resumed.notes()["seconds"] > notes["seconds"]
    assert Throughput(8).overall() == 0


def test_progress_survives_a_checkpoint_and_older_notes_are_read():
    progress = Progress(0.5, 2, {"accuracy": 0.9}, 7, {"step": 7, "score": 0.9}, feed={"batch_size": 8})
    assert Progress.from_notes(json.loads(json.dumps(progress.to_notes()))) == progress
    older = {"train_loss": 0.25, "skipped": 0, "evaluated": 3, "metrics": {}, "unknown": 1}
    assert Progress.from_notes(older) == Progress(train_loss=0.25, evaluated=3)
    assert Progress.from_notes({}) == Progress()
