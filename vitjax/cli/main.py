"""The `vitjax` command: the programs, the models, and what this machine has.

    vitjax demo                                         rerank real photos; look at runs/demo/report.html
    vitjax eval --config folder --workdir runs/mine --config.data.gallery=DIR
    vitjax train --config smoke --workdir runs/smoke
    vitjax threshold runs/mine
    vitjax models "*dinov2*"
    vitjax doctor

`vitjax eval` and `vitjax train` run eval.py and train.py, the same files that stand at the top of a checkout.
"""

import argparse
import difflib
import os
import runpy
import sys
from collections.abc import Callable

import vitjax
from vitjax.cli import builtin, completion

DEMO = ("--config", "demo", "--workdir", "runs/demo")


def main() -> int:
    """Runs one command and returns its exit code: 0 done, 1 a user error, 2 wrong arguments."""
    name, arguments = (sys.argv[1], sys.argv[2:]) if len(sys.argv) > 1 else ("", [])
    if name in PROGRAMS:  # their flags are those of the config: see `vitjax eval --help`
        return PROGRAMS[name](arguments)
    options = parser().parse_args()
    return options.run(options)


def run_program(file: str, arguments: list[str]) -> int:
    """Runs a program of the checkout or the wheel in this process, as `python FILE ARGUMENTS` would."""
    folder = builtin.folder()
    sys.path.insert(0, str(folder))
    sys.argv = [str(folder / file), *arguments]
    runpy.run_path(sys.argv[0], run_name="__main__")
    return 0


def _demo(arguments: list[str]) -> int:
    return run_program("eval.py", [*DEMO, *arguments])


def _threshold(arguments: list[str]) -> int:
    sys.argv = ["vitjax threshold", *arguments]
    runpy.run_module("vitjax.evaluation.threshold", run_name="__main__")
    return 0


PROGRAMS: dict[str, Callable[[list[str]], int]] = {
    "demo": _demo,
    "eval": lambda arguments: run_program("eval.py", arguments),
    "train": lambda arguments: run_program("train.py", arguments),
    "threshold": _threshold,
}


def parser() -> argparse.ArgumentParser:
    """Returns the parser of the command; shells complete from it."""
    top = argparse.ArgumentParser(
        "vitjax", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    top.add_argument("--version", action="version", version=f"vitjax {vitjax.__version__}")
    commands = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _program_parser(commands, "demo", "rerank the bundled photos with real weights (fetched once, 90 MB)")
    _program_parser(commands, "eval", "search and rerank images, or classify them, and report")
    _program_parser(commands, "train", "train a model; the same command again resumes")
    threshold = commands.add_parser("threshold", help="from which score on a first hit is an answer")
    threshold.add_argument("run", metavar="RUN", help="workdir of a finished run")
    models = commands.add_parser("models", help="list the models that vitjax.build knows, and what they cost")
    models.add_argument("glob", nargs="?", default="", metavar="GLOB", help="wildcard, such as '*dinov2*'")
    models.add_argument("--pretrained", action="store_true", help="only those whose weights are published")
    models.set_defaults(run=_models)
    doctor = commands.add_parser("doctor", help="versions, devices, caches, and what is missing")
    doctor.set_defaults(run=_doctor)
    shells = commands.add_parser("completion", help="print a completion script for your shell")
    shells.add_argument("shell", choices=("bash", "zsh", "tcsh"))
    shells.set_defaults(run=_completion)
    return top


def _program_parser(commands: argparse._SubParsersAction, name: str, text: str) -> None:
    """A program's own flags, as far as a shell completes them; the program itself parses them."""
    from vitjax.config import EvalConfig
    from vitjax.config.fields import walk
    from vitjax.config.train_config import TrainConfig

    program = commands.add_parser(name, help=text)
    program.add_argument("--config", choices=builtin.config_names(), metavar="NAME|FILE")
    paths: list[argparse.Action] = [program.add_argument("--workdir", metavar="DIR")]
    program.add_argument("--print_config", action="store_true")
    for path, kind, _, option in walk(TrainConfig() if name == "train" else EvalConfig()):
        words = ("true", "false") if kind == "bool" else option.words
        meaning = option.help.replace("%", "%%")
        flag = program.add_argument(f"--{path}", choices=words or None, metavar="VALUE", help=meaning)
        paths += [flag] * (kind == "str" and not words)
    for flag in paths:
        setattr(flag, "complete", completion.FILES)  # noqa: B010  (an attribute that only shtab knows)


def _models(options: argparse.Namespace) -> int:
    from vitjax.pretrained import list_models

    names = list_models(options.glob, pretrained=options.pretrained)
    if not names:
        near = difflib.get_close_matches(options.glob.strip("*"), list_models(), n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        print(f"vitjax models: no name matches {options.glob!r}{hint}", file=sys.stderr)
        return 1
    rows = [_model_row(name) for name in names]
    head = ("name", "parameters", "GMACs", "tokens", "width", "licence", "weights")
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row, file in ((head, sys.stderr), *((row, sys.stdout) for row in rows)):
        aligned = zip(row, widths, "<>>>><<", strict=True)
        cells = (f"{cell:{side}{width}}" for cell, width, side in aligned)
        print("  ".join(cells).rstrip(), file=file)
    return 0


def _model_row(name: str) -> tuple[str, ...]:
    """What `vitjax models` says of a model, as text."""
    from vitjax.pretrained import MODELS, cost_of, pretrained_source

    card, cost = MODELS[name], cost_of(name)
    figures = ("-",) * 4
    if cost:
        figures = (f"{cost.params / 1e6:.1f} M", f"{cost.macs / 1e9:.1f}", str(cost.tokens), str(cost.width))
    return name, *figures, card.licence or "-", pretrained_source(name) if card.weights else "-"


def _doctor(_: argparse.Namespace) -> int:
    from vitjax import doctor

    print("\n".join(doctor.report()))
    return 0


def _completion(options: argparse.Namespace) -> int:
    print(completion.script(parser(), options.shell))
    return 0


def entry() -> None:
    """The console script: exits with the code of `main`; a pipe that closes early is no error."""
    try:
        sys.exit(main())
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)


if __name__ == "__main__":
    entry()
