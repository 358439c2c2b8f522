"""What a hostile name may not do to a terminal."""

import io
import os
import pty
import subprocess
import sys
import unicodedata

import pytest
from rich.console import Console
from rich.table import Table

from vitjax.cli import console, flags
from vitjax.errors import UserError
from vitjax.system.terminal import CleanStream, clean

HOSTILE = "a\x1b]0;title\x07\x9b31m\u202egnp\u2066\n\r\x7f\u2028\udcff.png"


def steers(text: str) -> list[str]:
    """Characters of a text, other than the ends of its lines, that a terminal obeys."""
    found = [c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Zl", "Zp")]
    return [c for c in found if c not in "\n"]


def test_what_steers_a_terminal_is_shown_and_the_rest_of_a_name_stays():
    assert steers(clean(HOSTILE)) == [] and "\n" not in clean(HOSTILE)
    assert clean("a\x1b\u202e\n") == r"a\x1b\u202e\n"
    for name in ("caf\u00e9 [1].png", "\u732b.png", "\U0001f469\u200d\U0001f680.png", "a\u00a0b", "\\x1b"):
        assert clean(name) == name
    every = "".join(map(chr, range(0x20))) + "".join(map(chr, range(0x7F, 0xA0)))
    assert steers(clean(every)) == []


def test_lines_warnings_progress_and_cells_are_cleaned(capsys):
    console.say(HOSTILE)
    console.warn(HOSTILE)
    assert list(console.bar([1], 1, HOSTILE)) == [1]
    table = Table(title=HOSTILE)
    table.add_column(HOSTILE)
    table.add_row(HOSTILE)
    console.console.print(table)
    printed = capsys.readouterr().err
    assert steers(printed) == []
    assert printed.count(r"\x1b]0;title") == 6


def test_a_bar_on_a_terminal_has_rich_s_escapes_and_none_of_a_name(monkeypatch):
    file = io.StringIO()
    monkeypatch.setattr(file, "isatty", lambda: True)
    terminal = console._CleanConsole(file=file, force_terminal=True, width=150)
    monkeypatch.setattr(console, "console", terminal)
    monkeypatch.setattr(Console, "is_dumb_terminal", False)
    assert list(console.bar([1, 2], 2, HOSTILE)) == [1, 2]
    assert "\x1b[" in file.getvalue()
    assert "\x1b]0;" not in file.getvalue() and "\u202e" not in file.getvalue()
    assert r"\x1b]0;title" in file.getvalue()


def test_errors_of_the_user_are_one_clean_line(capsys):
    def main() -> None:
        raise UserError(HOSTILE)

    assert flags._guarded(main, "prog") == 1
    printed = capsys.readouterr().err
    assert steers(printed) == [] and printed.count("\n") == 1


def test_a_protected_stream_keeps_lines_and_is_otherwise_the_stream():
    below = io.StringIO()
    stream = CleanStream(below)
    print("two\n\tlines\x1b[2J", file=stream)
    stream.writelines(["a\u202e", "b"])
    assert below.getvalue() == "two\n\tlines\\x1b[2J\na\\u202eb"
    assert stream.isatty() is False and stream.rich_proxied_file is below


BUG = """
import sys, warnings
from vitjax.cli import flags
flags.begin()
from vitjax.cli.console import say
from vitjax.config import EvalConfig
NAME = "a\\x1b]0;title\\x07\\u202e.png"
open("config.py", "w").write("import vitjax.config\\nget_config = lambda arg: vitjax.config.EvalConfig()")
def main(config, workdir):
    say(NAME, style="yellow")
    print(NAME)
    warnings.warn(NAME)
    raise RuntimeError(NAME)
sys.argv = ["prog", "--config=config.py", "--workdir=w"]
flags.run(main, EvalConfig, "")
"""


@pytest.mark.parametrize("terminal", [False, True])
def test_tracebacks_warnings_and_prints_of_a_program_are_clean(tmp_path, terminal):
    (tmp_path / "bug.py").write_text(BUG)
    variables = os.environ | {"TERM": "xterm"}
    variables.pop("NO_COLOR", None)
    with open(tmp_path / "out", "wb") as plain:
        mine, theirs = pty.openpty() if terminal else (None, plain.fileno())
        ended = subprocess.run(
            [sys.executable, "bug.py"], cwd=tmp_path, env=variables, stdout=theirs, stderr=theirs, check=False
        )
    assert ended.returncode == 1
    if mine is None:
        printed = (tmp_path / "out").read_text()
    else:
        os.close(theirs)
        printed = os.read(mine, 65536).decode()
        assert "\x1b[33m" in printed, "colours of our own reach a terminal"
    assert "RuntimeError: a\\x1b]0;title\\x07\\u202e.png" in printed
    assert "\x1b]0;" not in printed or (not terminal and printed.count("\x1b]0;") == 1)  # the print, as it is
    assert printed.count(r"\x1b]0;title") >= 3
