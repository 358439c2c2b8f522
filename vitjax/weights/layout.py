"""What tells one layout of names in checkpoints from another, and how its names become timm's."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

AGAIN = ".again"  # ends the timm name of an array that the checkpoint's code adds to that of the name before


@dataclass(frozen=True)
class Positions:
    """How the code that made a checkpoint resizes its position table, and what the table's rows are.

    Attributes:
        antialias: with antialiasing (timm), or without.
        offset: in patches; see `vitjax.layers.pos_embed`.
        prefix_rows: rows before the patches' rows; None = as the model has.
        square: the code takes the patch grid to be square whenever it can be.
        corners: linear, corner rows on corner rows, in place of all else.
        interpolation: "bicubic" or "bilinear".
    """

    antialias: bool = True
    offset: float = 0.0
    prefix_rows: int | None = None
    square: bool = False
    corners: bool = False
    interpolation: str = "bicubic"

    def __str__(self) -> str:
        if self.corners:
            return "linear between aligned corners"
        step = f"scale factor with offset {self.offset}" if self.offset else "size"
        return f"{self.interpolation} by {step}, {'' if self.antialias else 'not '}antialiased"


def _as_it_is(name: str, array: np.ndarray) -> Iterable[tuple[str, np.ndarray]]:
    return ((name, array),)


@dataclass(frozen=True)
class Layout:
    """One way to name the weights of one family of models.

    Attributes:
        name: for the report: whose names these are.
        anchor: a name that every such checkpoint has, the first projection's; what comes before it is a
            wrapper's prefix.
        mark: pattern that some whole name behind the prefix matches; "" = the anchor alone tells.
        table: pattern of a whole name: its timm name, as a template or a function of the match; the first
            that matches counts, and a name that none matches stays.
        ignored: pattern of a whole name: why it is left out.
        positions: what its position table is, where it has one.
        computes: fields of the model that its own code has at these values and that no weight tells.
        to_torch: names and arrays in torch's shapes for one name behind the prefix and its array, before
            `table` is asked.
        claims: names behind the prefix that would be another layout's anchor, and belong to this one.
    """

    name: str
    anchor: str
    mark: str = ""
    table: Mapping[str, str | Callable[[re.Match[str]], str]] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)
    positions: Positions = field(default_factory=Positions)
    computes: Mapping[str, object] = field(default_factory=dict)
    to_torch: Callable[[str, np.ndarray], Iterable[tuple[str, np.ndarray]]] = _as_it_is
    claims: tuple[str, ...] = ()

    def anchors(self, names: Collection[str]) -> dict[str, str]:
        """Names that are the anchor of weights in this layout, and the wrapper's prefix before each."""
        found = {n: n.removesuffix(self.anchor) for n in names if ("." + n).endswith("." + self.anchor)}
        if found and self.mark:
            # Shortest prefixes: a mark begins with a name of its own.
            marked = re.compile(rf"((?:.*?\.)?)(?:{self.mark})")
            inside = {match[1] for name in names if (match := marked.fullmatch(name))}
            found = {name: prefix for name, prefix in found.items() if prefix in inside}
        return found
