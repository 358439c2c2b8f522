import json
import pathlib

import pytest

from vitjax.training.log import MetricLog, last_step
from vitjax.training.output import Output


@pytest.fixture
def said() -> list[str]:
    return []


def resumed(out: pathlib.Path, content: bytes, step: int, said: list[str]) -> list[bytes]:
    """Lines of metrics.jsonl once a run has resumed at a step and written the next."""
    (out / "metrics.jsonl").write_bytes(content)
    one = MetricLog(out, step=step, config={}, output=Output(warn=said.append))
    one.write(step + 1, {"loss": float("nan"), "name": "x"})
    one.close()
    return (out / "metrics.jsonl").read_bytes().splitlines()


def test_lines_of_steps_that_will_come_again_are_taken_out(tmp_path, said):
    content = b"".join(b'{"step": %d}\n' % step for step in (1, 2, 2, 3)) + b'{"step": 4, "lo'
    found = resumed(tmp_path, content, 2, said)
    assert found[:-1] == [b'{"step": 1}', b'{"step": 2}', b'{"step": 2}']
    assert json.loads(found[-1]) == {"step": 3, "loss": None, "name": "x"}
    assert said == []  # the last line is what a kill leaves
    assert last_step(tmp_path / "metrics.jsonl") == 3 and last_step(tmp_path / "none") == 0


@pytest.mark.parametrize(
    "bad",
    [b'{"step": 2, "name": "\xff"}', b"\x00\x00", b"[1]", b'{"step": "2"}', b'{"step": NaN}', b"{", b"\xc3"],
)
def test_a_line_that_cannot_be_read_is_left_out_and_said(tmp_path, said, bad):
    found = resumed(tmp_path, b'{"step": 1}\n' + bad + b'\n{"step": 2}\n{"step": 9}\n', 5, said)
    assert found[:-1] == [b'{"step": 1}', b'{"step": 2}']
    (line,) = said
    assert "metrics.jsonl: line 2 cannot be read" in line
