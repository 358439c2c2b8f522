"""PNG images of a ranking and of matched patches, drawn with Pillow alone, for READMEs and papers."""

import io
import os
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vitjax.system.files import replacing
from vitjax.viz.views import Box, CandidateView, MatchView, QueryView

RELEVANT, IRRELEVANT, NEUTRAL = (23, 121, 74), (189, 48, 39), (176, 178, 184)
# The same twelve as in page_base.js: bright enough for photos, neighbours far apart.
COLOURS = (
    *("#ffd400", "#4cc9ff", "#ff7a59", "#7ee081", "#d8a0ff", "#ff9ecf"),
    *("#00d5c0", "#ffb13d", "#a8c0ff", "#c6e84a", "#ff6f91", "#9be7ff"),
)
_PAPER, _INK, _SOFT, _ACCENT, _MAT = (255, 255, 255), (27, 28, 31), (91, 96, 106), (49, 80, 184), (23, 24, 27)
_FINE = 3  # drawing scale: Pillow does not smooth lines, so they are drawn large and shrunk


def ranking_figure(
    images: Mapping[str, np.ndarray], query: QueryView, *, ranks: int = 5, width: int = 1000
) -> Image.Image:
    """The query with both rankings; whether an image is relevant is marked by colour and by sign.

    Args:
        images: key -> uint8 (h, w, 3), as in `Report.images`.
        query: the query with its candidates; those with a rank up to `ranks` are drawn.
        ranks: in each row.
        width: of the image in pixels.

    Returns:
        RGB image, `width` wide; its height follows from the number of ranks.
    """
    margin, gap, slope = 16, 10, 34
    left = round(width * 0.19)
    start = margin + left + 28
    cell = (width - margin - start + gap) / ranks
    side = int(cell - gap)
    head, text = 26, 24
    top = margin + head + text
    bottom = top + side + slope
    image = Image.new("RGB", (width, bottom + side + text + head + margin), _PAPER)
    draw = ImageDraw.Draw(image)

    rows = {"before": _row(query, "rank_before", ranks), "after": _row(query, "rank_after", ranks)}
    centres = [start + column * cell + side / 2 for column in range(ranks)]
    _slopes(image, rows["before"], rows["after"], centres, top + side + 2, bottom - 2)

    for name, y in (("before", top), ("after", bottom)):
        for column, candidate in enumerate(rows[name]):
            x = round(start + column * cell)
            image.paste(_framed(images[candidate.image], side, candidate.relevant), (x, y))
            line = y - text if name == "before" else y + side + 2
            _caption(draw, candidate, name, (x, line, side))
    draw.text((start, margin - 4), "Before: pooled search", _INK, _font(17))
    draw.text((start, bottom + side + text + 6), "After: reranked by matched patches", _INK, _font(17))

    photo = _fitted(images[query.image], left, left)
    y = (image.height - photo.height) // 2
    image.paste(photo, (margin, y))
    draw.text((margin, y + photo.height + 6), "Query", _INK, _font(17))
    return image


def matches_figure(
    query_image: np.ndarray, candidate_image: np.ndarray, matches: Sequence[MatchView], *, width: int = 1000
) -> Image.Image:
    """Both photos side by side, each match a numbered, coloured pair of boxes and a line.

    Args:
        query_image: uint8 (h, w, 3).
        candidate_image: uint8 (h, w, 3); drawn as high as the query.
        matches: boxes as shares of each panel; the first is drawn on top.
        width: of the panel in pixels.

    Returns:
        RGB panel, `width` wide; its height follows from the shapes of the photos.
    """
    margin, gap = 12, round(width * 0.07)
    ratios = [image.shape[1] / image.shape[0] for image in (query_image, candidate_image)]
    high = round((width - 2 * margin - gap) / sum(ratios))
    wide = [round(high * ratio) for ratio in ratios]
    panel = Image.new("RGB", (width, high + 2 * margin), _MAT)
    corners = (margin, width - margin - wide[1])
    for image, x, w in zip((query_image, candidate_image), corners, wide, strict=True):
        panel.paste(_resized(image, w, high), (x, margin))

    canvas = panel.resize((panel.width * _FINE, panel.height * _FINE), Image.Resampling.BILINEAR)
    draw = ImageDraw.Draw(canvas)
    sides = (
        [_pixels(match.query_box, corners[0], wide[0], high, margin) for match in matches],
        [_pixels(match.candidate_box, corners[1], wide[1], high, margin) for match in matches],
    )
    last = range(len(matches) - 1, -1, -1)
    for i in last:
        a, b = sides[0][i], sides[1][i]
        line = (a[2], (a[1] + a[3]) / 2, b[0], (b[1] + b[3]) / 2)
        draw.line(line, _INK, 5 * _FINE)
        draw.line(line, COLOURS[i % len(COLOURS)], round(2.5 * _FINE))
    for boxes in sides:
        for i in last:
            _numbered(draw, boxes, i)
    return canvas.resize(panel.size, Image.Resampling.LANCZOS)


def _numbered(draw: ImageDraw.ImageDraw, boxes: Sequence[Box], i: int) -> None:
    """One box and its number; matches that share a patch take its corners, frames one inside the other."""
    x0, y0, x1, y1 = boxes[i]
    sharing = [j for j, box in enumerate(boxes) if box == boxes[i]]
    nth, alone = sharing.index(i), len(sharing) == 1
    inset = min(3 * _FINE * nth, (x1 - x0) / 3, (y1 - y0) / 3)
    frame = (x0 + inset, y0 + inset, x1 - inset, y1 - inset)
    draw.rectangle(
        (frame[0] - _FINE, frame[1] - _FINE, frame[2] + _FINE, frame[3] + _FINE), None, _INK, 5 * _FINE
    )
    draw.rectangle(frame, None, COLOURS[i % len(COLOURS)], 3 * _FINE)
    u, v = (0.5, 0.5) if alone else ((0.3, 0.3), (0.7, 0.7), (0.7, 0.3), (0.3, 0.7))[nth % 4]
    size = min(17 * _FINE, max(8 * _FINE, int((y1 - y0) / (1.5 if alone else 2.2))))
    middle = (x0 + u * (x1 - x0), y0 + v * (y1 - y0))
    draw.text(middle, str(i + 1), "white", _font(size), "mm", stroke_width=2 * _FINE, stroke_fill="black")


def save_figure(path: str | os.PathLike[str], image: Image.Image, *, limit: int = 200_000) -> None:
    """Writes a PNG, whole or not at all, with as many colours as fit into `limit` bytes (64 at the least)."""
    content = _png(image)
    for colours in (256, 160, 96, 64):
        if len(content) <= limit:
            break
        content = _png(image.quantize(colours, dither=Image.Dither.NONE))
    with replacing(path, "wb") as file:
        file.write(content)


def _png(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "PNG", optimize=True)
    return file.getvalue()


def _row(query: QueryView, key: str, ranks: int) -> list[CandidateView]:
    shown = [c for c in query.candidates if getattr(c, key) is not None and getattr(c, key) <= ranks]
    return sorted(shown, key=lambda c: getattr(c, key))


def _pixels(box: Box, x: int, width: int, height: int, margin: int) -> Box:
    """Shares of a photo at (x, margin) as pixels of the enlarged drawing."""
    x0, x1 = (_FINE * (x + share * width) for share in (box[0], box[2]))
    y0, y1 = (_FINE * (margin + share * height) for share in (box[1], box[3]))
    return x0, y0, x1, y1


def _resized(image: np.ndarray, width: int, height: int) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(image)).resize((width, height), Image.Resampling.LANCZOS)


def _fitted(image: np.ndarray, width: int, height: int) -> Image.Image:
    scale = min(width / image.shape[1], height / image.shape[0])
    return _resized(image, max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))


def _framed(image: np.ndarray, side: int, relevant: bool | None) -> Image.Image:
    """A photo in a frame with, where it is known, a sign of relevance: not all eyes tell red from green."""
    colour = NEUTRAL if relevant is None else RELEVANT if relevant else IRRELEVANT
    frame = Image.new("RGB", (side, side), colour)
    frame.paste((240, 240, 236), (3, 3, side - 3, side - 3))
    photo = _fitted(image, side - 10, side - 10)
    frame.paste(photo, ((side - photo.width) // 2, (side - photo.height) // 2))
    if relevant is not None:
        size = max(14, side // 6)
        sign = Image.new("RGB", (size * _FINE, size * _FINE), colour)
        strokes = (
            ((0.22, 0.52, 0.42, 0.72), (0.42, 0.72, 0.78, 0.3))
            if relevant
            else ((0.28, 0.28, 0.72, 0.72), (0.28, 0.72, 0.72, 0.28))
        )
        for stroke in strokes:
            ends = [share * size * _FINE for share in stroke]
            ImageDraw.Draw(sign).line(ends, "white", max(1, size * _FINE // 8))
        frame.paste(sign.resize((size, size), Image.Resampling.LANCZOS), (side - size, side - size))
    return frame


def _caption(draw: ImageDraw.ImageDraw, item: CandidateView, row: str, at: tuple[int, int, int]) -> None:
    x, y, side = at
    before, after = item.rank_before, item.rank_after
    rank, score = (before, item.pooled) if row == "before" else (after, item.score)
    draw.text((x, y), str(rank), _INK, _font(16))
    if score is not None:
        draw.text((x + side, y), f"{score:.3f}", _SOFT, _font(16), anchor="ra")
    if row == "after" and before != after and side >= 90:
        start = x + 8 + draw.textlength(str(rank), _font(16))
        text = "new" if before is None else str(abs(before - (after or 0)))
        if before is not None:
            up = before > (after or 0)
            tip, base = (y + 6, y + 14) if up else (y + 14, y + 6)
            draw.polygon([(start, base), (start + 8, base), (start + 4, tip)], _ACCENT if up else _SOFT)
            start += 11
        draw.text((start, y), text, _ACCENT if before is None or before > (after or 0) else _SOFT, _font(16))


def _slopes(
    image: Image.Image,
    before: Sequence[CandidateView],
    after: Sequence[CandidateView],
    centres: Sequence[float],
    top: int,
    bottom: int,
) -> None:
    """Curves from a candidate's rank before to its rank after, relevant images in colour and on top."""
    moves = [
        (bool(candidate.relevant), centres[i], centres[j])
        for i, candidate in enumerate(before)
        for j, other in enumerate(after)
        if other is candidate
    ]
    band = Image.new("RGB", (image.width * _FINE, (bottom - top) * _FINE), _PAPER)
    draw = ImageDraw.Draw(band)
    step = np.linspace(0.0, 1.0, 60)
    ease = step * step * (3 - 2 * step)
    for relevant, x0, x1 in sorted(moves):
        xs, ys = _FINE * (x0 + (x1 - x0) * ease), step * (band.height - 1)
        colour, width = (RELEVANT, 3) if relevant else ((205, 207, 212), 2)
        draw.line([*zip(xs.tolist(), ys.tolist(), strict=True)], colour, width * _FINE, joint="curve")
    image.paste(band.resize((image.width, bottom - top), Image.Resampling.LANCZOS), (0, top))


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=size)
