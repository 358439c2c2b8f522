"""Completion in the shells themselves: a line and TAB typed at a terminal, and what the command then gets."""

import os
import pathlib
import re
import select
import shutil
import subprocess
import time

import pytest

from vitjax.cli import completion, main

pty = pytest.importorskip("pty", reason="terminals are of Unix")
pytest.importorskip("shtab", reason="completion scripts are shtab's; extra dev")

# The command prints what it was given.
FUNCTION = "unset HISTFILE; PS1='$ '; vitjax() { printf '<%s>\\n' \"$*\"; }\n"
LINES = [
    ("ev", "eval"),
    ("thr", "threshold"),
    ("completion zs", "completion zsh"),
    ("train --config smo", "train --config smoke"),
    ("eval --config=text_s", "eval --config=text_search"),
    ("eval --config.rerank.eps", "eval --config.rerank.epsilon"),
    ("train --config smoke --config.optim.warm", "train --config smoke --config.optim.warmup_epochs"),
    ("eval --config=folder --config.figures.rep", "eval --config=folder --config.figures.report"),
    ("eval --config.rerank.method cham", "eval --config.rerank.method chamfer"),
    ("eval --config.rerank.method=cham", "eval --config.rerank.method=chamfer"),
    ("eval --config.model.center=position+", "eval --config.model.center=position+subspace"),
    ("eval --workdir my_ru", "eval --workdir my_runs/"),
    ("eval --config.data.gallery=my_ph", "eval --config.data.gallery=my_photos/"),
]


class Shell:
    """A shell at a terminal of its own, in a folder with two sub-folders."""

    def __init__(self, name: str, folder: pathlib.Path) -> None:
        for sub in ("my_runs", "my_photos"):
            (folder / sub).mkdir()
        text = completion.script(main.parser(), name)
        if name == "bash":
            (folder / "vitjax.bash").write_text(text)
            (folder / "rc").write_text(f"{FUNCTION}source {folder}/vitjax.bash; echo ready\n")
            command = ["bash", "--noprofile", "--rcfile", f"{folder}/rc", "-i"]
        else:
            (folder / "_vitjax").write_text(text)
            load = f"fpath=({folder} $fpath); autoload -U compinit; compinit -u -D"
            (folder / ".zshrc").write_text(f"{FUNCTION}{load}; echo ready\n")
            command = ["zsh", "-d", "-i"]
        env = {"HOME": str(folder), "ZDOTDIR": str(folder), "PATH": os.environ["PATH"], "TERM": "dumb"}
        self.terminal, inside = pty.openpty()
        self.process = subprocess.Popen(
            command, stdin=inside, stdout=inside, stderr=inside, cwd=folder, env=env, start_new_session=True
        )
        os.close(inside)
        self.read(r"ready\r?\n")

    def read(self, wanted: str) -> re.Match:
        """Waits for an output."""
        out, end = "", time.monotonic() + 60
        while not (found := re.search(wanted, out)):
            assert time.monotonic() < end, f"no {wanted!r} in {out!r}"
            if select.select([self.terminal], [], [], 1)[0]:
                out += os.read(self.terminal, 2**16).decode(errors="replace")
        return found

    def completed(self, line: str) -> str:
        """The arguments of the command after TAB."""
        os.write(self.terminal, f"vitjax {line}\t\n".encode())
        return self.read(r"<([^\n]*)>\r?\n")[1]

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.terminal)


@pytest.fixture(scope="module", params=["bash", "zsh"])
def shell(request, tmp_path_factory):
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    running = Shell(request.param, tmp_path_factory.mktemp(request.param))
    yield running
    running.close()


@pytest.mark.parametrize(("line", "wanted"), LINES)
def test_a_tab_completes_commands_flags_words_configs_and_folders(shell, line, wanted):
    found = shell.completed(line)
    assert found in (wanted, wanted.removesuffix("/"))  # which of the shells appends a slash is their own


def test_what_nothing_begins_with_stays_as_it_was_typed(shell):
    assert shell.completed("eval --config.rerank.zzz") == "eval --config.rerank.zzz"
