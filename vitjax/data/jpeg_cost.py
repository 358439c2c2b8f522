"""Decoding cost of a JPEG, computed from its segments, and the file without metadata.

Source: ITU-T T.81, annexes B and E.
"""

import re
import struct
from collections.abc import Iterator
from typing import NamedTuple

from vitjax.data.image_limits import (
    EXIF_HEADER,
    HALVED_ABOVE,
    MAX_PIXELS,
    Inspected,
    Refusal,
    check_memory,
    check_size,
    damaged,
)

MAX_SCANS = 200  # of a JPEG; encoders write about 10
MAX_SCANNED = 20 * MAX_PIXELS["JPEG"]  # samples that all scans go over: 20 times the largest image
_BYTE = 8  # samples that take as long to decode as a byte of coded data
MAX_SEGMENTS = 800  # of a JPEG; a colour profile has up to 255, embedded depth maps some 200

# In coded data FF 00 stands for a byte FF and FF D0 to D7 are restarts; FF FF fills up before a marker.
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")
_FRAMES = {0xC0, 0xC1, 0xC2}  # baseline, extended, progressive: Huffman codes and DCT
_OTHER_FRAMES = {0xC3, *range(0xC5, 0xD0), 0xDE, 0xDF}  # lossless, hierarchical, arithmetic codes
_TABLES = {0xC4, 0xDB, 0xDC, 0xDD}  # Huffman, quantisation, number of lines, restart interval
_SCAN, _END, _COMMENT = 0xDA, 0xD9, 0xFE
_APPLICATION = range(0xE0, 0xF0)
_COLOUR = {0xE0: b"JFIF\0", 0xEE: b"Adobe"}  # they say which colour space the samples are in
_FILL, _RUN = b"\xff" * 64, re.compile(rb"\xff*")


def _jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Marker, start and end of each segment, and the end of what follows: a scan's coded data, or nothing.

    The marker that ends the image is the last; a file cut before it has none.
    """
    fill = data.find(_FILL, 2)
    marker, _, at = _next_marker(data, 2, fill)
    while marker:
        if marker in _OTHER_FRAMES:
            raise Refusal(f"is a JPEG of a kind that no camera writes (marker FF {marker:02X}); convert it.")
        if marker not in _FRAMES | _TABLES | {_SCAN, _END, _COMMENT} and marker not in _APPLICATION:
            raise damaged(f"JPEG marker FF {marker:02X}")
        end = at if marker == _END else at + max(2, int.from_bytes(data[at : at + 2]))
        if end > len(data):
            raise damaged("cut inside a segment")
        if 0 <= fill < end:
            fill = data.find(_FILL, end)
        following, follows, after = _next_marker(data, end, fill) if marker != _END else (0, end, end)
        yield marker, at - 2, end, follows
        marker, at = following, after


def _next_marker(data: bytes, at: int, fill: int) -> tuple[int, int, int]:
    """The next marker, 0 = none, where what is before it ends, and where it ends itself.

    `fill` is where the next long run of fill bytes starts, -1 = nowhere. It must end in a marker, and is left
    out with the rest before it: Pillow's time is quadratic in its length.
    """
    stop = fill if fill >= 0 else len(data)
    if found := _MARKER.search(data, at, stop):
        return data[found.end() - 1], found.start(), found.end()
    run = _RUN.match(data, stop)
    end = run.end() if run else stop
    if end == len(data):
        return 0, stop, end
    if not _MARKER.match(data, end - 1):
        raise damaged(f"{end - stop} fill bytes amid coded data")
    return data[end], stop, end + 1


def inspect_jpeg(data: bytes) -> Inspected:
    """Walks the segments of a JPEG up to its end; see `image_cost.inspect`."""
    view = memoryview(data)
    kept, exif = [view[:2]], []
    frame, scans, coded = None, [], 0
    for number, (marker, start, end, follows) in enumerate(_jpeg_segments(data)):
        if number >= MAX_SEGMENTS:
            raise Refusal(f"has more than {MAX_SEGMENTS} segments and scans; save it anew.")
        segment, body = view[start:end], view[start + 4 : end]
        if marker == _SCAN:
            scans.append(_planes_of_scan(body, frame))
            coded += follows - end
            kept += [segment, view[end:follows]]
        elif marker in _FRAMES:
            if frame is not None:
                raise damaged("two frame headers")
            frame = _frame(body, progressive=marker == 0xC2)
            kept.append(segment)
        elif marker == 0xE1 and body[:6] == EXIF_HEADER and not scans:
            exif.append(body[6:])
        elif marker in _TABLES | {_END} or body[:5] == _COLOUR.get(marker):
            kept.append(segment)
    if frame is None or not scans:
        raise damaged("a JPEG without an image")
    _check_time(frame, scans, coded)
    image = b"".join(kept)
    # A pixel has four bytes; coefficients, of two, are held where they are not complete after the first scan.
    coefficients = sum(frame.planes) if frame.progressive or len(scans[0]) < len(frame.planes) else 0
    pixels = frame.size[0] * frame.size[1]
    check_memory(len(image) + (pixels if pixels > HALVED_ABOVE else 4 * pixels) + 2 * coefficients)
    return Inspected(frame.size, image, b"".join([EXIF_HEADER, *exif]) if exif else b"")


class _Frame(NamedTuple):
    """What a frame header says: size in pixels; each component's name, and its samples in whole blocks."""

    size: tuple[int, int]
    names: bytes
    planes: list[int]
    progressive: bool


def _frame(body: memoryview, *, progressive: bool) -> _Frame:
    if len(body) < 9 or len(body) != 6 + 3 * body[5]:
        raise damaged("JPEG frame header")
    bits, height, width, _ = struct.unpack_from(">BHHB", body)
    if bits != 8:
        raise Refusal(f"is a JPEG of {bits}-bit samples; save it with 8.")
    check_size((width, height), "JPEG")
    sampling = [divmod(both, 16) for both in body[7::3]]
    if not all(1 <= side <= 4 for both in sampling for side in both):
        raise damaged("JPEG sampling factors")
    across, down = (max(factors) for factors in zip(*sampling, strict=True))
    units = -(-width // (8 * across)) * -(-height // (8 * down))
    return _Frame((width, height), bytes(body[6::3]), [64 * units * h * v for h, v in sampling], progressive)


def _planes_of_scan(body: memoryview, frame: _Frame | None) -> list[int]:
    """Samples of each component that a scan goes over."""
    count = body[0] if len(body) else 0
    names = bytes(body[1 : 1 + 2 * count : 2])
    if frame is None or len(body) != 4 + 2 * count or not set(names) <= set(frame.names):
        raise damaged("JPEG scan header")
    return [frame.planes[frame.names.index(name)] for name in names]


def _check_time(frame: _Frame, scans: list[list[int]], coded: int) -> None:
    if len(scans) > MAX_SCANS:
        raise Refusal(f"has {len(scans)} scans, above the limit of {MAX_SCANS}; save it anew.")
    if sum(map(sum, scans)) + _BYTE * coded > MAX_SCANNED:
        width, height = frame.size
        raise Refusal(
            f"takes too long to decode: scans {width} x {height} pixels {len(scans)} times, "
            f"{coded / 2**20:.1f} MiB; save it anew, with fewer scans."
        )
