"""Token reduction drawn on an image, step by step: dropped patches pale, merged ones in a common colour."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image, ImageDraw, ImageFont

_PALE = 0.8  # share of white on a dropped patch
_LINE = np.array([27, 28, 31], np.float32)


def paint_owners(
    image: UInt8[np.ndarray, "h w 3"], owner: Int[np.ndarray, "rows columns"]
) -> UInt8[np.ndarray, "h w 3"]:
    """The photo with dropped patches pale, and patches that share a token in their mean colour, outlined.

    Args:
        image: as the model saw it; sides at least those of the grid.
        owner: which token stands for each patch; -1 = dropped.
    """
    height, width = image.shape[:2]
    row = np.arange(height) * owner.shape[0] // height
    column = np.arange(width) * owner.shape[1] // width
    group = owner[row[:, None], column[None, :]]
    out = image.astype(np.float32)
    tokens, counts = np.unique(owner[owner >= 0], return_counts=True)
    merged = tokens[counts > 1]
    for token in merged:
        inside = group == token
        out[inside] = out[inside].mean(axis=0)
    edge = np.zeros(group.shape, bool)
    edge[1:] |= group[1:] != group[:-1]
    edge[:, 1:] |= group[:, 1:] != group[:, :-1]
    known = np.isin(group, merged)
    out[edge & known] = _LINE
    dropped = group < 0
    out[dropped] = (1 - _PALE) * out[dropped] + _PALE * 255
    return np.rint(out).astype(np.uint8)


def reduced_figure(
    image: UInt8[np.ndarray, "h w 3"], owners: Sequence[np.ndarray], titles: Sequence[str], *, side: int = 260
) -> Image.Image:
    """The image and, beside it, its tokens after each stage.

    Args:
        image: as the model saw it.
        owners: one grid per stage; see `paint_owners`.
        titles: a line under each stage's image.
        side: of each image, pixels.
    """
    margin, text = 10, 26
    panels = [image, *(paint_owners(image, owner) for owner in owners)]
    width = margin + len(panels) * (side + margin)
    figure = Image.new("RGB", (width, side + text + 2 * margin), "white")
    draw, font = ImageDraw.Draw(figure), ImageFont.load_default(size=15)
    for i, (panel, title) in enumerate(zip(panels, ["photo", *titles], strict=True)):
        x = margin + i * (side + margin)
        how = Image.Resampling.LANCZOS if min(panel.shape[:2]) >= side else Image.Resampling.NEAREST
        figure.paste(Image.fromarray(panel).resize((side, side), how), (x, margin))
        draw.text((x, margin + side + 6), title, (27, 28, 31), font)
    return figure
