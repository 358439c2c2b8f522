"""What tells one layout of names in checkpoints from another, and how its names become timm's."""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Positions:
    """How the code that made a checkpoint resizes its position table, and what the table's rows are.

    Attributes:
        antialias: bicubic with antialiasing (timm), or without.
        offset: in patches; see `vitjax.models.pos_embed`.
        prefix_rows: rows before the patches' rows; None = as the model has.
        square: the code takes the patch grid to be square whenever it can be.
    """

    antialias: bool = True
    offset: float = 0.0
    prefix_rows: int | None = None
    square: bool = False

    def __str__(self) -> str:
        step = f"scale factor with offset {self.offset}" if self.offset else "size"
        return f"bicubic by {step}, {'' if self.antialias else 'not '}antialiased"


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
    """

    name: str
    anchor: str
    mark: str = ""
    table: Mapping[str, str | Callable[[re.Match], str]] = field(default_factory=dict)
    ignored: dict[str, str] = field(default_factory=dict)
    positions: Positions = field(default_factory=Positions)
    computes: Mapping[str, object] = field(default_factory=dict)

    def prefix(self, names: Collection[str]) -> str | None:
        """The wrapper's prefix of a checkpoint in this layout; None where it is in another."""
        found = [n for n in names if n == self.anchor or n.endswith("." + self.anchor)]
        if not found:
            return None
        # A checkpoint of training may hold a student beside: the shortest name is the plain backbone.
        prefix = min(found, key=len).removesuffix(self.anchor)
        inside = (n.removeprefix(prefix) for n in names if n.startswith(prefix))
        return prefix if not self.mark or any(re.fullmatch(self.mark, n) for n in inside) else None
