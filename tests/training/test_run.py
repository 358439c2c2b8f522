"""Parts of train.py that need no process of their own."""

import types

import pytest

import train
from vitjax.program import UserError
from vitjax.training.config import TrainConfig


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(train, "say", lines.append)
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
