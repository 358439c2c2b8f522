"""How images become a page, and batches a checkpoint: calls go down the import order, both ways walked."""

import collections
import contextlib
import functools
import pathlib
import sys
import threading
import types
from collections.abc import Iterator
from typing import NamedTuple

import pytest

import eval as searching
import train as training
from tests import ROOT
from tests.photos import write_folder
from tests.test_imports import imported_modules
from vitjax.config import EvalConfig, ModelConfig
from vitjax.config.train_config import CheckpointConfig, StudentConfig, TrainConfig, TrainDataConfig
from vitjax.training.preemption import Stop

# What is called from below because it was handed down, and how; everything else is called from above.
HANDED = {
    "cli.console": "lines and progress: `Output` of train.py, `progress` of eval.py",
    "cli.run_files: Stopwatch": "JAX tells its clock what it compiles",
    "config.eval_config: _rules": "rules between fields, an argument of `check`",
    "config.train_config: _rules": "likewise",
    "data.augment: Augment": "what `Feed` makes of an image",
    "data.eval_loader: Batches": "the batches that a progress bar goes through",
    "data.sources": "methods of an ImageSource; sources by name are an open set",
    "data.transforms: Preprocess": "what `Batches` makes of an image",
    "evaluation.described_images: DescribedImages": "methods of the images that a page is given",
    "evaluation.described_images: describe_images.<locals>.progress": "an argument of `Reranker.describe`",
    "models.vit: ": "methods of any backbone and of its blocks; backbones are an open set",
    "ot.solvers.fused: in_blocks.<locals>.block": "an argument of `map_blocks`",
    "reranker: Reranker._forward": "an argument of `make_describe`",
    "retrieval.descriptors: Descriptors": "a pytree, which JAX makes anew; methods of a DescriptorSet",
    "retrieval.explanation.matches: _match_strongest": "an argument of `in_blocks`",
    "retrieval.metrics.relevance: Truth": "a method of what the page is told is relevant",
    "train.py: train.<locals>.<lambda>": "an argument of `Stop.unless`",
    "training.optim: decayed": "an argument of optax, which says what decays",
    "training.preemption: Stop": "asked by loops whether to go on",
}
IGNORED = {"_moved"}  # asked by every import of any library


class Call(NamedTuple):
    """A call between two modules, by their names in the package."""

    caller: str
    callee: str
    function: str


@functools.cache
def module_of(file: str) -> str:
    """Name of the module of vitjax, or the program, that a file is; empty for other files."""
    path = pathlib.Path(file)
    if path in (ROOT / "eval.py", ROOT / "train.py"):
        return path.name
    inside = path.is_relative_to(ROOT / "vitjax")
    name = ".".join(path.relative_to(ROOT / "vitjax").with_suffix("").parts) if inside else ""
    return name.removesuffix(".__init__")


@contextlib.contextmanager
def watched() -> Iterator[collections.Counter[Call]]:
    """Counts calls from one module of vitjax to another, in all threads, also where a library is between."""
    calls: collections.Counter[Call] = collections.Counter()

    def note(frame: types.FrameType, event: str, _: object) -> None:
        if event != "call" or not (callee := module_of(frame.f_code.co_filename)):
            return
        back = frame.f_back
        while back is not None and not module_of(back.f_code.co_filename):
            if back.f_code.co_filename.endswith("typing.py"):
                return  # an isinstance of a protocol reads its properties
            back = back.f_back
        if back is not None and (caller := module_of(back.f_code.co_filename)) != callee:
            calls[Call(caller, callee, frame.f_code.co_qualname)] += 1

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        yield calls
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


def below(module: str, imports: dict[str, set[str]]) -> set[str]:
    """Modules that a module imports, at any distance."""
    found, rest = set(), {module}
    while rest:
        rest = set().union(*(imports.get(name, set()) for name in rest)) - found
        found |= rest
    return found


def not_down(calls: collections.Counter[Call]) -> set[Call]:
    """Calls to modules that the caller does not import, not even by what it imports."""
    imports = imported_modules()
    down = {call.caller: below(f"vitjax.{call.caller}", imports) for call in calls}
    return {
        call
        for call in calls
        if not call.caller.endswith(".py") and f"vitjax.{call.callee}" not in down[call.caller]
    }


def was_handed(call: Call) -> bool:
    named = f"{call.callee}: {call.function}"
    return call.callee in IGNORED or named.startswith(tuple(HANDED))


def search(out: pathlib.Path) -> None:
    """Four photos searched in themselves, reranked by transport, and shown."""
    config = EvalConfig(batch_size=2, model=ModelConfig("vit_small_patch14_dinov2", img_size=28))
    config.model.embed_dim, config.model.depth, config.model.num_heads = 8, 1, 2
    config.data.gallery = str(write_folder(out / "photos", kinds=2, variants=2))
    config.rerank.iterations, config.figures.count, config.figures.report = 3, 0, 2
    searching.evaluate(config, str(out / "run"))
    assert (out / "run" / "report.html").is_file()


def learn(out: pathlib.Path) -> None:
    """Two steps on four photos, and a checkpoint."""
    photos = str(write_folder(out / "photos", kinds=2, variants=2))
    config = TrainConfig(
        batch_size=4, steps=2, log_every=1, model=StudentConfig("deit_small_patch16_224", img_size=32),
        data=TrainDataConfig(train=photos, test=photos), checkpoint=CheckpointConfig(every=2),
    )  # fmt: skip
    config.model.embed_dim, config.model.depth, config.model.num_heads = 8, 1, 2
    training.train(config, out, Stop())
    assert (out / "checkpoints" / "2").is_dir()


@pytest.mark.parametrize(
    ("walk", "stations"),
    [
        (search, ("data.sources.base", "data.eval_loader", "reranker", "retrieval.descriptors", "models.vit",
                  "retrieval.first_stage.exact", "retrieval.reranking.rerank_candidates", "ot.solve",
                  "retrieval.metrics.definitions", "retrieval.explanation.matches", "viz.report")),
        (learn, ("data.sources.base", "data.train_loader", "data.augment", "training.batch", "models.vit",
                 "training.losses", "training.step", "training.evaluation", "training.checkpoint")),
    ],
)  # fmt: skip
def test_calls_go_down_the_import_order(walk, stations, tmp_path, monkeypatch):
    monkeypatch.setenv("VITJAX_CACHE", str(tmp_path / "cache"))
    with watched() as calls:
        walk(tmp_path)
    assert set(stations) <= {call.callee for call in calls}
    up = not_down(calls)
    assert [call for call in sorted(up) if not was_handed(call)] == []
    assert len(calls) > 100 and len(up) < len(calls) / 5


def test_a_call_to_a_module_above_is_found():
    calls = collections.Counter(
        [
            Call("eval.py", "evaluation.sweep", "parse_sweep"),
            Call("reranker", "ot.solve", "sinkhorn"),  # by way of retrieval
            Call("ot.solve", "reranker", "similarity"),
            Call("retrieval.descriptors", "reranker", "Reranker._forward"),
            Call("viz.report", "evaluation.summary", "summarize"),
        ]
    )
    found = not_down(calls)
    assert {call.callee for call in found if not was_handed(call)} == {"reranker", "evaluation.summary"}
    assert len(found) == 3
