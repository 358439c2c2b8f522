"""Progress where there is no terminal: lines of a log, now and then."""

import itertools
import re
from collections.abc import Iterator

import pytest

from vitjax.cli import console


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now

    def items(self, seconds: list[float]) -> Iterator[int]:
        """Items that take so long each."""
        for i, each in enumerate(seconds):
            yield i
            self.now += each


def log(seconds: list[float], capsys, **options) -> list[str]:
    clock = Clock()
    got = list(console.bar(clock.items(seconds), len(seconds), "gallery", clock=clock, **options))
    assert got == list(range(len(seconds)))
    return capsys.readouterr().err.splitlines()


def test_a_log_says_done_of_total_rate_and_time_left(capsys):
    # The first batch compiles for 30 s; then 2 s each for 8 images.
    lines = log([30.0, *[2.0] * 99], capsys, total=800)
    assert lines[0] == "gallery: 8/800 images, 0.267 images/s, 49:30 min left"
    assert lines[1] == "gallery: 48/800 images, 4 images/s, 3:08 min left"
    assert lines[-1] == "gallery: done in 3:48 min"


@pytest.mark.parametrize("each", [0.01, 1.0, 7.0])
def test_lines_come_after_some_seconds_and_then_less_often(each, capsys):
    clock, said = Clock(), []
    for _ in console.bar(clock.items([each] * round(3600 / each)), round(3600 / each), "x", clock=clock):
        if capsys.readouterr().err:
            said.append(clock.now - 100)
    gaps = [b - a for a, b in itertools.pairwise(said)]
    assert 5 <= said[0] <= 5 + each
    assert gaps[0] == pytest.approx(10, abs=each + 0.1) and gaps == sorted(gaps, key=round)
    assert max(gaps) <= console.LONGEST + each
    assert len(said) < 70


def test_work_that_is_short_says_only_that_it_is_done_and_no_work_nothing(capsys):
    assert log([0.5] * 4, capsys) == ["gallery: done in 2.0 s"]
    assert log([], capsys) == []
    assert log([0.5] * 4, capsys, ends=False) == []
    assert len(log([3.0] * 4, capsys, ends=False)) == 2


def test_a_last_batch_that_is_not_full_ends_at_the_total(capsys):
    lines = log([10.0, 10.0, 10.0], capsys, total=20, unit="queries")
    assert [re.match(r"gallery: (\d+)/20 queries", line)[1] for line in lines[:-1]] == ["6", "13"]


def test_an_item_that_raises_ends_the_progress_without_a_line_that_it_is_done(capsys):
    def broken():
        yield 1
        raise OSError("no")

    with pytest.raises(OSError, match="no"):
        list(console.bar(broken(), 2, "x"))
    assert capsys.readouterr().err == ""
