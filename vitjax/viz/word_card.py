"""A text query as an image: its words in the cells of a grid, so that boxes and lines can point at them."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

_CELL = (132, 44)  # pixels: width and height of a word's cell
_PAPER, _EDGE, _INK = (250, 250, 247), (224, 225, 228), (27, 28, 31)


def card_grid(count: int) -> tuple[int, int]:
    """Rows and columns for so many words: about as wide as high, filled row by row.

    >>> card_grid(6), card_grid(1), card_grid(20)
    ((3, 2), (1, 1), (7, 3))
    """
    columns = max(1, round((count / 2) ** 0.5))
    return -(-max(count, 1) // columns), columns


def word_card(words: Sequence[str]) -> UInt8[np.ndarray, "h w 3"]:
    """Draws words, each in the middle of its cell of `card_grid`, smaller where it is long.

    Pillow's own font has Latin, Greek and Cyrillic letters only: report.html writes the words itself.
    """
    rows, columns = card_grid(len(words))
    wide, high = _CELL
    card = Image.new("RGB", (columns * wide, rows * high), _PAPER)
    draw = ImageDraw.Draw(card)
    for i, word in enumerate(words):
        row, column = divmod(i, columns)
        x, y, size = column * wide, row * high, 20
        while size > 8 and draw.textlength(word, ImageFont.load_default(size)) > wide - 10:
            size -= 1
        draw.rectangle((x, y, x + wide - 1, y + high - 1), outline=_EDGE)
        draw.text((x + wide / 2, y + high / 2), word, _INK, ImageFont.load_default(size), "mm")
    return np.asarray(card)
