"""What happened when a checkpoint met a model, in words a user can act on."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Mismatch:
    """A weight that only one side has, or that differs in shape; shapes as in a torch file."""

    name: str
    file_shape: tuple[int, ...] | None = None
    model_shape: tuple[int, ...] | None = None

    def __str__(self) -> str:
        sides = (("file", self.file_shape), ("model", self.model_shape))
        shapes = ", ".join(f"{who} {shape}" for who, shape in sides if shape is not None)
        return f"{_shown(self.name)} ({shapes})"


@dataclass(frozen=True)
class LoadReport:
    """Every name that did not fit, and everything that was adapted.

    Attributes:
        source: where the weights came from.
        layout: whose names the file uses.
        entry: which of its sets of weights was taken, as the prefix of its names; "" = names without one.
        loaded: number of parameters that took a value from the file.
        missing: the model has them, the file does not; timm's names.
        unexpected: the file has them, the model does not; the file's names.
        mis_shaped: both have them, in different shapes.
        ignored: names in the file that are left out on purpose, and why.
        notes: what was adapted: position table resized, classifier fresh.
        hints: what to change so that it fits.
    """

    source: str
    layout: str
    loaded: int
    missing: tuple[Mismatch, ...]
    unexpected: tuple[Mismatch, ...]
    mis_shaped: tuple[Mismatch, ...]
    ignored: dict[str, str]
    notes: tuple[str, ...]
    hints: tuple[str, ...]
    entry: str = ""

    @property
    def fits(self) -> bool:
        """True where every parameter has its weight and no weight is left over."""
        return not (self.missing or self.unexpected or self.mis_shaped)

    @property
    def gaps(self) -> str:
        """One line for weights that are used although they do not fit."""
        random = len(self.missing) + len(self.mis_shaped)
        kept = (
            f"{random} parameters keep random initial values" if random else "the rest of the file is unused"
        )
        verdict = (
            f"weights {self.source!r} do not fit the model: {self.loaded} parameters loaded, {self._counts}"
        )
        return "; ".join([f"{verdict}; {kept}", *self.hints]) + "."

    @property
    def _counts(self) -> str:
        parts = {"missing": self.missing, "unexpected": self.unexpected, "mis-shaped": self.mis_shaped}
        return ", ".join(f"{len(found)} {kind}" for kind, found in parts.items() if found)

    def __str__(self) -> str:
        """First line: the verdict and what to do; then one line per name."""
        parts = {"missing": self.missing, "unexpected": self.unexpected, "mis-shaped": self.mis_shaped}
        if self.fits:
            first = f"weights {self.source!r} ({self.layout} layout): {self.loaded} parameters loaded"
        else:
            first = f"weights {self.source!r} ({self.layout} layout) do not fit the model: {self._counts}"
        lines = ["; ".join([first, *self.notes, *self.hints]) + "."]
        lines += [f"  {kind}: {item}" for kind, found in parts.items() for item in found]
        lines += [f"  left out: {_shown(name)} ({why})" for name, why in self.ignored.items()]
        return "\n".join(lines)


def _shown(name: str) -> str:
    """A name from a file, which a terminal must not take for a command."""
    return name if name.isprintable() else repr(name)


def hints(
    state: Mapping[str, Any],
    wanted: Mapping[tuple[str, ...], tuple[int, ...]],
    missing: Sequence[Mismatch],
    unexpected: Sequence[Mismatch],
    mis_shaped: Sequence[Mismatch],
) -> Iterator[str]:
    """Yields what to change so that a checkpoint fits, from the kind of its mismatches.

    Args:
        state: the checkpoint in timm's names.
        wanted: the model's parameter shapes by linen path.
        missing: see LoadReport, like the next two.
        unexpected: see LoadReport.
        mis_shaped: see LoadReport.
    """
    names = {m.name for m in missing}
    extra = {m.name for m in unexpected}
    width = state["patch_embed.proj.weight"].shape if "patch_embed.proj.weight" in state else ()
    kernel = wanted.get(("patch_embed", "proj", "kernel"), ())
    if len(width) == 4 and len(kernel) == 4 and (width[0] != kernel[3] or width[2] != kernel[0]):
        yield (
            f"the file is of a model {width[0]} wide with patches of {width[2]} pixels, yours is {kernel[3]} "
            f"wide with {kernel[0]}: choose another model name"
        )
        return
    # Blocks by their number and what is before it: one list of them, or one per stage.
    in_file = {found[0] for n in state if (found := _IN_BLOCK.match(n))}
    in_model = {found[0] for p in wanted if (found := re.match(r"(.*\.)?blocks_\d+(?=\.)", ".".join(p)))}
    if in_model and not in_file:
        yield "the file has no blocks.*: it is not a plain vision transformer"
    elif len(in_file) != len(in_model):
        yield f"the file has {len(in_file)} blocks, the model {len(in_model)}: choose another name or depth"
    tables = [m.file_shape for m in mis_shaped if m.name.endswith("relative_position_bias_table")]
    if tables and tables[0]:
        side = math.isqrt(math.prod(tables[0][:-1]))
        square = side % 2 and side**2 == math.prod(tables[0][:-1])
        windows = f"{(side + 1) // 2}x{(side + 1) // 2} or so" if square else "not square"
        yield f"the file's windows are {windows}: set window_size and img_size as in the file"
    shapes = {re.split(r"[./]", m.name)[-1] for m in mis_shaped}
    if {"pos_embed", "position_embeddings", "pos_embedding"} & shapes:
        yield "the position table fits no grid: set img_size, no_embed_class and reg_tokens as in the file"
    scaled = any(n.endswith(".gamma") or "layer_scale" in n for n in extra)
    scales = any(n.endswith(".gamma") for n in names)
    if scaled and not scales:
        yield "the file has LayerScale: build with init_values=1e-5 or choose a deit3 or dinov2 name"
    if scales and not scaled:
        yield "the file has no LayerScale: build with init_values=None or choose another model name"
    if scaled and scales:
        yield "both have LayerScale, under different names: the file's code names its blocks in its own way"
    if any(n.split(".")[0] in ("head", "head_dist", "aux_head", "fc") for n in names):
        yield "the file has no such classifier: build with num_classes=0, or load with drop_head=True"
    heads = [
        m
        for m in mis_shaped
        if m.file_shape and m.model_shape and re.split(r"[./]", m.name)[-2:][0] in _HEADS
    ]
    if heads:
        classes = (heads[0].file_shape or (0,))[0]
        yield (
            f"the classifier is for {classes} classes: build with num_classes={classes}, or load with "
            "drop_head=True"
        )
    for parts, advice in _ONE_SIDED:
        if any(p in n for n in names for p in parts) != any(p in n for n in extra for p in parts):
            yield advice


_IN_BLOCK = re.compile(r"(?:.*\.)?blocks\.\d+(?=\.)")
_ONE_SIDED = (
    (
        ("pre_logits",),
        "the file has a layer before its classifier (pre_logits) that the models here lack: build with "
        "num_classes=0, or load with drop_head=True",
    ),
    (("fc_norm",), "one side pools before its final norm: check global_pool and fc_norm"),
    (
        ("dist_token", "distillation_token"),
        "only one side is distilled: choose a *_distilled_* name or a plain one",
    ),
    (
        ("reg_token", "register_tokens"),
        "only one side has register tokens: choose a *_reg4_* name or a plain one",
    ),
)
_HEADS = ("head", "head_dist", "aux_head", "fc", "classifier", "cls_classifier", "distillation_classifier")
