"""Which of several sets of weights in one file to take: by meaning or by name, never by their order.

A training checkpoint holds a student and a teacher, or a model and the moving average (EMA) of its weights,
nested ({"model": ..., "model_ema": ...}) or by prefix ("student.backbone."). Nested dictionaries are read as
prefixes: one rule serves both. Taken is a teacher's or an average's set, which the code that writes such
files evaluates (DINO, timm); else one without such a name; else a student's. Two of one kind are refused with
their names.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from vitjax.errors import EntryError, WeightsError
from vitjax.weights import (
    names_clip,
    names_convnext,
    names_cvt,
    names_dinov3,
    names_google,
    names_pe,
    names_swin,
    names_tips,
    names_vit,
)
from vitjax.weights.layout import Layout

# The first whose anchor and mark a set of weights has is its layout; those of plain ViT tell by least, so
# they come last.
_LAYOUTS = (
    *names_pe.LAYOUTS,
    *names_tips.LAYOUTS,
    *names_clip.LAYOUTS,
    *names_convnext.LAYOUTS,
    *names_cvt.LAYOUTS,
    *names_dinov3.LAYOUTS,
    Layout("ELViS", "remap_local.0.weight"),
    Layout("token head", "token_gain_fc1.weight"),
    Layout("timm or torchvision", "layer1.0.conv1.weight"),  # ResNet; the stems of others have a conv1 too
    *names_swin.LAYOUTS,
    *names_google.LAYOUTS,
    *names_vit.LAYOUTS,
)
# What torch.compile, DDP and FSDP put between a module and its parent.
_WRAPPERS = re.compile(r"(?:(?<=\.)|^)(?:module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_STAGE_OF_CVT = re.compile(r"(?:.*\.)?stage\d+\.")
_MAX_NAME, _MAX_ENTRIES, _MAX_DEPTH, _MAX_SETS = 1_000, 1_000_000, 4, 64


@dataclass(frozen=True)
class Choice:
    """One set of weights of a file.

    Attributes:
        layout: whose names it uses.
        prefix: what stands before its names, wrappers left out.
        names: names that may be of use, wrappers left out, and as they are in the file.
        left_out: sets of weights that were not taken, as patterns of names: why.
        notes: what was taken and what else there was, where that was not asked for.
    """

    layout: Layout
    prefix: str
    names: Mapping[str, str]
    left_out: Mapping[str, str]
    notes: tuple[str, ...]


def flatten(tree: Mapping[str, Any], is_leaf: Callable[[Any], bool]) -> dict[str, Any]:
    """Leaves of nested dictionaries by dotted name; everything else is left out.

    Raises:
        WeightsError: more entries than any checkpoint has, a name twice, or an endless one.
    """
    found: dict[str, Any] = {}
    open_trees = [("", tree, 0)]
    visited = 0
    while open_trees:
        prefix, tree, depth = open_trees.pop()
        visited += len(tree)
        if visited > _MAX_ENTRIES:
            raise WeightsError(f"it holds more than {_MAX_ENTRIES} entries; refused.")
        for key, value in tree.items():
            if not isinstance(key, str):
                continue
            if len(prefix) + len(key) > _MAX_NAME:
                raise WeightsError(f"it holds a name of more than {_MAX_NAME} characters; refused.")
            if isinstance(value, Mapping):
                if depth < _MAX_DEPTH:
                    open_trees.append((f"{prefix}{key}.", value, depth + 1))
            elif is_leaf(value):
                if prefix + key in found:
                    raise WeightsError(f"it holds the name {prefix + key!r} twice; refused.")
                found[prefix + key] = value
    return found


def choose(names: Collection[str], entry: str | None = None, source: str = "weights") -> Choice:
    """The set of weights to take out of a file.

    Args:
        names: all names in it, nested ones dotted.
        entry: which to take: a prefix ("teacher.backbone"), or whole parts of one ("teacher"); "" = names
            without a prefix; None = by meaning.
        source: where they are, for messages.

    Raises:
        WeightsError: no known layout, no such entry, or several that may be meant.
    """
    clean = _without_wrappers(names)
    found = _sets(clean)
    if not found:
        some = ", ".join(repr(n) for n in sorted(names)[:5])
        anchors = " or ".join(dict.fromkeys(repr(layout.anchor) for layout in _LAYOUTS))
        raise WeightsError(
            f"{source}: these are not the weights of a model we know: no {anchors} among {len(names)} names "
            f"({some}, ...)."
        )
    if len(found) > _MAX_SETS:
        raise WeightsError(f"{source}: {len(found)} sets of weights in one file; refused.")
    ranked = {prefix: _rank(prefix) for prefix in found}
    if entry is not None:
        wanted = _named(found, entry, wrapped=any(n != raw for n, raw in clean.items()))
        if not wanted:
            raise EntryError(f"{source}: no weights under entry {entry!r}; there are {_listed(found)}.")
        ranked = {prefix: ranked[prefix] for prefix in wanted}
    best = [prefix for prefix in ranked if ranked[prefix] == max(ranked.values())]
    if len(best) > 1:
        raise EntryError(
            f"{source}: several sets of weights, and no name tells which is meant: {_listed(best)}; tell "
            f"load_weights, by entry={_shown(sorted(best)[-1])} for one."
        )
    others = [prefix for prefix in found if prefix != best[0]]
    kept, dropped = {}, Counter()
    for name, raw in clean.items():
        owner = _owner(name, best[0], others) if others else best[0]
        if owner == best[0]:
            kept[name] = raw
        else:
            dropped[owner] += 1
    left_out = {f"{p}*": f"another set of weights, of {dropped[p]} names" for p in others}
    notes = ()
    serious = [prefix for prefix in others if _rank(prefix)]
    if entry is None and serious:
        notes = (
            f"entry {_shown(best[0])} taken; there is also {_listed(serious)} (load_weights takes another by "
            f"entry={_shown(serious[0])})",
        )
    return Choice(found[best[0]], best[0], kept, left_out, notes)


def _without_wrappers(names: Collection[str]) -> dict[str, str]:
    """Names without wrappers, with dots for slashes; those that would then be one stay as they are."""
    clean: dict[str, list[str]] = {}
    for name in names:
        clean.setdefault(_WRAPPERS.sub("", name.replace("/", ".")), []).append(name)
    return {short if len(raw) == 1 else name: name for short, raw in clean.items() for name in raw}


def _sets(names: Collection[str]) -> dict[str, Layout]:
    """Prefixes of all sets of weights, and the layout of each."""
    found: dict[str, Layout] = {}
    claimed: set[str] = set()
    for layout in _LAYOUTS:
        for name, prefix in layout.anchors(names).items():
            # Every stage of CvT has a projection of the name that a plain ViT has one of.
            if name not in claimed and not _STAGE_OF_CVT.fullmatch(prefix):
                claimed |= {name, *(prefix + other for other in layout.claims)}
                found.setdefault(prefix, layout)
    return dict(sorted(found.items()))


def _rank(prefix: str) -> int:
    """3 = a teacher or an average, 2 = neither, 1 = a student, 0 = an optimizer's."""
    words = set(re.split(r"[._]", prefix.lower()))
    if words & {"opt", "optim", "optimizer", "optimizers"} and "target" not in words:
        return 0
    if words & {"teacher", "ema", "swa", "averaged"}:
        return 3
    return 1 if "student" in words else 2


def _named(prefixes: Collection[str], entry: str, *, wrapped: bool) -> list[str]:
    """Prefixes that an entry names: whole, or by some of their parts."""
    asked = entry.replace("/", ".").strip(".")
    wanted = _WRAPPERS.sub("", f"{asked}.") if asked else ""
    if asked and not wanted and not wrapped:
        return []
    if wanted in prefixes:
        return [wanted]
    return [prefix for prefix in prefixes if wanted and f".{wanted}" in f".{prefix}"]


def _owner(name: str, best: str, others: Collection[str]) -> str:
    """The set that a name belongs to: whose prefix it has or shares most parts with; else the chosen one."""
    inside = [prefix for prefix in (best, *others) if name.startswith(prefix)]
    if inside:
        return max(inside, key=len)
    return max((best, *others), key=lambda prefix: _parts_shared(name, prefix))


def _parts_shared(name: str, prefix: str) -> int:
    shared = 0
    for ours, theirs in zip(name.split("."), prefix.split("."), strict=False):
        if ours != theirs:
            break
        shared += 1
    return shared


def _listed(prefixes: Collection[str]) -> str:
    return ", ".join(_shown(prefix) for prefix in sorted(prefixes))


def _shown(prefix: str) -> str:
    return repr(prefix.removesuffix("."))
