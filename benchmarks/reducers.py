r"""Token reducers at one budget: four tasks, one command a row.

    python -m benchmarks.reducers --model imgfocus --reducer tome --schedule mac:0.65 --task rerank
        --corridor DIR --cache DIR
    python -m benchmarks.reducers --all --caltech101 DIR --grocery DIR --corridor DIR --graffiti DIR
        --stereo LEFT RIGHT DISPARITY.npz --cache DIR --csv FILE [--model NAME ...] [--schedule S ...]

A row is one model, reducer, schedule, task and set of photos. Rows are written as they are done, and a
command that is given again leaves out those that are there. The photos are those of benchmarks/lists, their
names relative to the folder of the flag; a set without its flag is left out.

Models: imgfocus, the demo's ViT-S/14 as far as its eighth block; clip, a ViT-B/16 with 8-bit weights; or what
`preset` of configs/common.py knows. Reducers: dense; grid, the dense model's tokens averaged; every entry of
`vitjax.sparsify.reducers.REDUCERS`. Those with learned parts have a row where `--trained MODEL:REDUCER=FILE`
gives these: predictors of dynamicvit, else all weights of the model. Schedules: mac:0.65, the setting whose
multiply-accumulates are nearest to that share of the dense model's; keep:0.7; r:13.

classify: a linear classifier fitted to pooled vectors of the dense model, of 15 other photos of each class.
retrieve, rerank: pooled search, and its first candidates reranked by the tokens that are left.
correspond: visible patches whose largest mass goes to their true patch; what a token moves is shared out
among its patches, and a dropped patch has the token of the nearest one that stayed.
segment: composites of photos of 20 classes, each patch's class from its token by a linear classifier that
was fitted to tokens of the dense model.

--speed measures images/s of rows that have none, after all of them, the dense model taking turns: on an idle
machine. compile_seconds and peak_mb (what the compiler plans, weights included) are of 16 images.
"""

import argparse
import csv
import gc
import io
import pathlib
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from benchmarks.backbones import our_run, take_turns
from benchmarks.reduced import AFTER_THE_MODEL, Reduced, Seen, scheduled, setting
from benchmarks.reduced_tasks import TASKS, Scores, Tasks
from configs.common import preset
from vitjax.cli import flags
from vitjax.config import CLIP_WEIGHTS, EvalConfig, ReduceConfig, demo_config
from vitjax.errors import UserError
from vitjax.sparsify.reducers import REDUCERS
from vitjax.system.files import replacing

LEARNED = ("dynamicvit", "patchmerger", "sit", "sinkhorn")
ALWAYS = ("dense", AFTER_THE_MODEL, "random", "uniform")
ALL = (*ALWAYS, *(name for name in REDUCERS if name not in ALWAYS))
SPEEDS = (1, 8, 32)
SECONDS = 3.0  # of timing, each model and batch size


class Row(NamedTuple):
    """One line of the table; shares in [0, 1], speeds 0 where nothing was measured."""

    model: str
    reducer: str
    schedule: str
    task: str
    images: str
    count: int
    metric: str
    value: float
    low: float
    high: float
    metric_2: str
    value_2: float
    low_2: float
    high_2: float
    setting: str
    gmacs: float
    macs_share: float  # of the dense model's
    tokens: int
    index_bytes: int
    compile_seconds: float
    peak_mb: float
    images_per_sec_1: float = 0.0
    images_per_sec_8: float = 0.0
    images_per_sec_32: float = 0.0
    speed_up_32: float = 0.0  # over the dense model, in turns


Key = tuple[str, str, str]  # model, reducer, schedule


def imgfocus() -> EvalConfig:
    """The recipe of the demo, whose tokens are those of the last of eight blocks."""
    config = demo_config()
    config.model = replace(config.model, depth=8, block=-1)
    return config


def clip() -> EvalConfig:
    """CLIP's ViT-B/16, matched as the demo is."""
    config = preset("clip")
    config.weights = CLIP_WEIGHTS
    config.model.grid = 7
    return config


MODELS: dict[str, Callable[[], EvalConfig]] = {"imgfocus": imgfocus, "clip": clip}


def main(argv: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(argv)
    folders = {name: value for name in FOLDERS if (value := getattr(args, name))}
    if not folders:
        raise UserError(f"no photos are given; give one of {', '.join(f'--{name}' for name in FOLDERS)}")
    if not args.all and not (args.reducer and args.task):
        raise UserError("say which row: --reducer and --task, or --all")
    table = Table(args.csv)
    asked = [
        (model, reducer, "mac:1" if reducer in ALWAYS[:2] else schedule)
        for schedule in args.schedule
        for reducer in args.reducer or ALL
        for model in args.model
    ]
    tasks: dict[str, Tasks] = {}
    for key in dict.fromkeys(asked):
        for row in _rows(key, args, folders, tasks, table.done(key)):
            table.append(row)
    if args.speed:
        for key in dict.fromkeys(asked):
            if table.lacks_speed(key) and (configs := _configs(key, args)):
                table.add_speed(key, speeds(*configs))


FOLDERS = ("caltech101", "imagenet", "corridor", "grocery", "graffiti", "stereo")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--all", action="store_true", help="every reducer and task that is not named")
    parser.add_argument("--model", nargs="+", default=list(MODELS), help=f"{', '.join(MODELS)}, or a preset")
    parser.add_argument("--reducer", nargs="+", choices=ALL, help="default with --all: all of them")
    parser.add_argument("--schedule", nargs="+", default=["mac:0.65"], help="mac:0.65, keep:0.7 or r:13")
    parser.add_argument("--task", nargs="+", choices=list(TASKS), help="default with --all: all of them")
    for name, what in zip(
        FOLDERS,
        (
            "folder of Caltech-101",
            "folder of classes; a list is drawn from it",
            "folder with query, ref and ground_truth.json",
            "folder of classes",
            "images of a flat thing and homographies.json",
        ),
        strict=False,
    ):
        parser.add_argument(f"--{name}", type=pathlib.Path, help=what)
    parser.add_argument("--stereo", type=pathlib.Path, nargs=3, metavar=("LEFT", "RIGHT", "DISPARITY"))
    parser.add_argument("--trained", nargs="+", default=[], metavar="MODEL:REDUCER=FILE", help="see above")
    parser.add_argument("--cache", type=pathlib.Path, required=True, help="folder for classifiers")
    parser.add_argument("--csv", type=pathlib.Path, help="the table; rows that it has are left out")
    parser.add_argument("--speed", action="store_true", help="measure images/s, when all rows are done")
    parser.add_argument("--limit", type=int, default=0, help="so many lines of each list, for a trial")
    return parser


def _configs(key: Key, args: argparse.Namespace) -> tuple[EvalConfig, EvalConfig] | None:
    """The config of the dense model and that of a row; None where it needs weights that are not given."""
    name, reducer, schedule = key
    dense = MODELS[name]() if name in MODELS else preset(name)
    if reducer == "dense":
        return dense, dense
    changed = replace(dense, reduce=ReduceConfig(reducer))
    if reducer in LEARNED:
        trained = dict(text.partition("=")[::2] for text in args.trained)
        file = trained.get(f"{name}:{reducer}")
        if file is None:
            return None
        if reducer == "dynamicvit":
            changed.reduce = replace(changed.reduce, **{"predictors": file})
        else:
            changed.weights = file
    return dense, scheduled(changed, schedule)


def _rows(
    key: Key, args: argparse.Namespace, folders: dict, tasks: dict[str, Tasks], done: set[tuple[str, str]]
) -> Iterator[Row]:
    """The rows of one model and reducer that are not done."""
    left = [
        (task, images)
        for task in args.task or TASKS
        for images in TASKS[task]
        if images in folders and (task, images) not in done
    ]
    if not left:
        return
    name, reducer, _ = key
    configs = _configs(key, args)
    if configs is None:
        print(f"{name}, {reducer}: left out, untrained; give --trained {name}:{reducer}=FILE", flush=True)
        return
    dense, config = configs
    if name not in tasks:
        tasks[name] = Tasks(Reduced(dense), folders, args.cache, limit=args.limit)
    gc.collect()  # what the last row saw
    reduced = tasks[name].dense if reducer == "dense" else Reduced(config, tasks[name].dense)
    seen: dict[str, Seen] = {}
    for task, images in left:
        found = tasks[name].score(reduced, task, images, seen)
        yield _row(key, task, images, found, reduced, tasks[name].dense.gmacs)


def _row(key: Key, task: str, images: str, found: Scores, reduced: Reduced, whole: float) -> Row:
    scores = [round(x, 5) if isinstance(x, float) else x for x in found]
    costs = {
        "setting": setting(reduced.config),
        "gmacs": round(reduced.gmacs, 4),
        "macs_share": round(reduced.gmacs / whole, 4),
        "tokens": reduced.tokens,
        "index_bytes": reduced.index_bytes,
        "compile_seconds": round(reduced.compile_seconds, 1),
        "peak_mb": round(reduced.peak_bytes / 1e6, 1),
    }
    named = dict(zip(Row._fields, (*key, task, images, *scores), strict=False))
    return Row(**named, **costs)


def speeds(dense: EvalConfig, config: EvalConfig) -> list[float]:
    """Images/s by batch size, and at the largest how much faster than the dense model: medians, in turns."""
    reduce = ReduceConfig() if config.reduce.name == AFTER_THE_MODEL else config.reduce
    models = {"dense": dense, "row": replace(config, reduce=reduce)}
    ready = {name: Reduced(each).reranker for name, each in models.items()}
    rates, faster = [], 1.0
    for batch in SPEEDS:
        size = ready["dense"].preprocess.image_size
        images = np.random.default_rng(0).normal(size=(batch, size, size, 3)).astype(np.float32)
        runs = {name: our_run(each.model, images, each.variables)[0] for name, each in ready.items()}
        times = take_turns(runs, SECONDS)
        rates.append(round(batch / statistics.median(times["row"]), 2))
        faster = statistics.median(d / t for d, t in zip(times["dense"], times["row"], strict=True))
    return [*rates, round(faster, 3)]


class Table:
    """The rows of a csv file, and those that are added; without a path they are only printed.

    A last line that a stop cut off is not a row.
    """

    def __init__(self, path: pathlib.Path | None) -> None:
        self.path, self.rows = path, []
        if path and path.exists():
            text = path.read_text(encoding="utf-8")
            whole = text[: text.rfind("\n") + 1]
            self.rows = list(read(io.StringIO(whole)))
            if whole != text:
                self._write()

    def done(self, key: Key) -> set[tuple[str, str]]:
        """Task and photos of the rows that are there."""
        return {(row.task, row.images) for row in self.rows if row[:3] == key}

    def append(self, row: Row) -> None:
        """Prints and keeps a row; on the disk when this returns."""
        print(line(row), flush=True)
        self.rows.append(row)
        if not self.path:
            return
        new = not self.path.exists()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows([Row._fields, row] if new else [row])

    def lacks_speed(self, key: Key) -> bool:
        """Whether there are rows of this without speeds."""
        return any(row[:3] == key and not row.images_per_sec_1 for row in self.rows)

    def add_speed(self, key: Key, found: list[float]) -> None:
        """Puts speeds in all rows of a model and reducer."""
        print(", ".join(key), *found, flush=True)
        names = [*(f"images_per_sec_{batch}" for batch in SPEEDS), "speed_up_32"]
        speed = dict(zip(names, found, strict=True))
        self.rows = [row._replace(**speed) if row[:3] == key else row for row in self.rows]
        if self.path:
            self._write()

    def _write(self) -> None:
        assert self.path is not None
        with replacing(self.path, "w") as file:
            csv.writer(file, lineterminator="\n").writerows([Row._fields, *self.rows])


def read(file: io.TextIOBase) -> Iterator[Row]:
    """The rows of a csv file."""
    kinds = {"str": str, str: str, "int": int, int: int, "float": float, float: float}
    found = csv.DictReader(file)
    if found.fieldnames is not None and tuple(found.fieldnames) != Row._fields:
        raise UserError("--csv: the file has other columns; give another file")
    for fields in found:
        yield Row(*(kinds[kind](fields[name]) for name, kind in Row.__annotations__.items()))


def line(row: Row) -> str:
    """A row for the console, in percent."""
    return (
        f"{row.model:9}{row.reducer:11}{row.schedule:9}{row.task:11}{row.images:11}{row.metric:18}"
        f"{100 * row.value:5.1f} [{100 * row.low:.1f}, {100 * row.high:.1f}]  {row.macs_share:.3f} of MACs, "
        f"{row.tokens} tokens"
    )


if __name__ == "__main__":
    flags.run_benchmark(main)
