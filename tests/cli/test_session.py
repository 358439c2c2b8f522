import fcntl
import os

import pytest

from vitjax.cli import session
from vitjax.errors import UserError


def enter(folder):
    with session.only_run(folder):
        pytest.fail("two runs in one folder")


def test_a_second_run_in_a_folder_is_told_who_is_there_and_after_the_first_it_may(tmp_path):
    with session.only_run(tmp_path):
        with pytest.raises(UserError, match=rf"another run is at work .*process {os.getpid()},"):
            enter(tmp_path)
        with session.only_run(tmp_path, holds=False):
            pass
    with session.only_run(tmp_path):
        pass


def test_a_run_that_raises_lets_go_of_its_folder(tmp_path):
    with pytest.raises(KeyError), session.only_run(tmp_path):
        raise KeyError
    with session.only_run(tmp_path):
        pass


def test_a_file_system_without_locks_holds_nothing_and_says_so(tmp_path, monkeypatch, capsys):
    def refused(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", refused)
    with session.only_run(tmp_path):
        pass
    assert "cannot be held against other runs (Operation not supported)" in capsys.readouterr().err


def test_a_folder_of_a_training_run_is_refused_below_a_home_folder_too(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "run.json").write_text("{}")
    with pytest.raises(UserError, match="name another folder"):
        session.refuse_training_run("~/run")
