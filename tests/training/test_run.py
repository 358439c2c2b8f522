"""Parts of train.py that need no process of their own."""

import types

import pytest

import train
from vitjax.config.train_config import TrainConfig
from vitjax.data.transforms import preprocess
from vitjax.errors import UserError
from vitjax.training.state import State


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(train, "say", lines.append)
    monkeypatch.setattr(train, "warn", lines.append)
    return lines


@pytest.mark.parametrize("epochs", [0.0, 0.04])
def test_epochs_of_less_than_a_step_are_refused(epochs):
    with pytest.raises(UserError, match=r"config\.epochs"):
        train.count_steps(TrainConfig(epochs=epochs), 10)


def test_a_warm_up_longer_than_the_run_is_said(said):
    config = TrainConfig(epochs=6.0)
    assert train.count_steps(config, 10) == 60
    assert said == []
    config.steps = 20
    assert train.count_steps(config, 10) == 20
    assert ["warmup_epochs is 50 steps, the run has 20" in line for line in said] == [True]


def test_a_score_that_is_not_a_number_is_never_the_best(tmp_path, said, monkeypatch):
    monkeypatch.setattr(train, "export", lambda path, _: path.touch())
    run = types.SimpleNamespace(evaluation=types.SimpleNamespace(score="accuracy"))

    def best(notes: dict, score: float) -> dict | None:
        return train.note_evaluation(tmp_path, run, None, notes, 1, {"accuracy": score}, None).get("best")

    assert best({}, float("nan")) is None
    assert not (tmp_path / "best.safetensors").exists()
    assert best({}, 0.0) == {"step": 1, "score": 0.0}
    assert best({"best": {"step": 0, "score": 0.5}}, 0.6) == {"step": 1, "score": 0.6}


def test_the_running_mean_and_the_parameters_each_have_their_own_best(tmp_path, said, monkeypatch):
    written = []
    monkeypatch.setattr(train, "export", lambda path, state: written.append((path.name, state.evaluated)))
    run = types.SimpleNamespace(evaluation=types.SimpleNamespace(score="accuracy"))
    state = State(3, {"w": 1}, (), {"w": 2}, 0, 0)
    notes: dict = {}
    for step, mean, raw in [(1, 0.5, 0.3), (2, 0.4, 0.6), (3, 0.7, float("nan"))]:
        found = {"accuracy": mean, "raw_accuracy": raw}
        notes.update(train.note_evaluation(tmp_path, run, state, notes, step, found, None))
    best, raw = ("best.safetensors", {"w": 2}), ("best_raw.safetensors", {"w": 1})
    assert written == [best, raw, raw, best]
    assert notes["best"] == {"step": 3, "score": 0.7} and notes["best_raw"] == {"step": 2, "score": 0.6}


def note(out, said: list[str], **fields) -> list[str]:
    """What is said of a run with these fields."""
    said.clear()
    train.note_run(TrainConfig(**fields), preprocess("deit_small_patch16_224"), out)
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


def test_the_pace_of_a_finished_run_is_known_from_its_results(tmp_path):
    assert train.last_pace(tmp_path / "results.json") == 0
    (tmp_path / "results.json").write_text('{"images_per_second": 12.5}')
    assert train.last_pace(tmp_path / "results.json") == 12.5
