"""Image files changed at random in their structure, read for some seconds: fuzz.py SECONDS [SEED].

Where `corpus` flips bits, here segments, chunks, sizes and scans are repeated, exchanged and made up, so that
the files stay near enough to images to cost something. It prints what `corpus` prints.
"""

import json
import random
import struct
import sys
import time
import zlib
from collections.abc import Callable, Iterator

from tests.data import corpus, costly

Parts = list[bytes]
FRAMES = (b"\xff\xc0", b"\xff\xc1", b"\xff\xc2")


def jpeg_parts(data: bytes) -> Parts:
    """Segments, each with what follows it; joined they are the file."""
    parts, at = [data[:2]], 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xD9:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4])
        if data[at + 1] == 0xDA:
            while end + 1 < len(data) and not (
                data[end] == 0xFF and data[end + 1] not in (0, *range(0xD0, 0xD8))
            ):
                end += 1
        parts.append(data[at:end])
        at = end
    return [*parts, data[at:]]


def png_parts(data: bytes) -> Parts:
    parts, at = [data[:8]], 8
    while at < len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4])
        parts.append(data[at:end])
        at = end
    return parts


def webp_parts(data: bytes) -> Parts:
    parts, at = [data[:12]], 12
    while at < len(data):
        length = int.from_bytes(data[at + 4 : at + 8], "little")
        end = at + 8 + length + length % 2
        parts.append(data[at:end])
        at = end
    return parts


def join_webp(parts: Parts) -> bytes:
    return costly.riff(b"".join(parts[1:]))


def join_png(parts: Parts) -> bytes:
    """Checksums are made anew: without them next to nothing would get past the first chunk."""
    return parts[0] + b"".join(corpus.chunk(part[4:8], part[8:-4]) for part in parts[1:] if len(part) >= 12)


KINDS: dict[str, tuple[Callable[[bytes], Parts], Callable[[Parts], bytes]]] = {
    "jpeg": (jpeg_parts, b"".join),
    "png": (png_parts, join_png),
    "webp": (webp_parts, join_webp),
}


def made_up(kind: str, draw: random.Random) -> bytes:
    """A part that the format knows, with random content."""
    body = draw.randbytes(draw.choice((0, 1, 14, 200, 60_000)))
    if kind == "png":
        name = draw.choice((b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"IDAT", b"PLTE", b"tRNS", b"fcTL"))
        body = draw.choice((body, b"k\0\0" + zlib.compress(bytes(draw.choice((9, 10**6))))))
        return corpus.chunk(name, body)
    if kind == "webp":
        name = draw.choice((b"VP8 ", b"VP8L", b"ALPH", b"ANMF", b"ANIM", b"ICCP", b"EXIF", b"XMP ", b"JUNK"))
        return name + struct.pack("<I", len(body)) + body + bytes(len(body) % 2)
    which = draw.randrange(4)
    if which == 0:
        return costly.segment(draw.randrange(0xC0, 0xFF), body)
    if which == 1:
        return costly.huffman(draw.randrange(2), draw.choice((0, 1, 0xE0, draw.randrange(256))))
    if which == 2:
        return costly.segment(0xDD, struct.pack(">H", draw.choice((0, 1, 7, 65_535))))
    first, last = draw.choice(((0, 0), (1, 63), (0, 63), (1, 5)))
    planes = draw.choice(([1], [2], [3], [1, 2, 3]))
    data = draw.choice((b"", body, bytes(10**6), b"\xff\0" * 10**5, b"\xff" * 10**5, b"\xff\xd0" * 10**5))
    return costly.scan(planes, first, last, draw.choice((0, 0, 1)), draw.choice((0, 0, 1)), data)


def resized(kind: str, parts: Parts, draw: random.Random) -> None:
    """Sizes at and above the limits, in the header."""
    size = draw.choice(
        ((8192, 6144), (8192, 4096), (5120, 4096), (4096, 4096), (30_000, 1), (1, 30_000), (65_535,) * 2)
    )
    for place, part in enumerate(parts):
        if kind == "jpeg" and part[:2] in FRAMES:
            parts[place] = part[:5] + struct.pack(">HH", *size) + part[9:]
        elif kind == "png" and part[4:8] == b"IHDR":
            parts[place] = part[:8] + struct.pack(">II", *size) + part[16:]
        elif kind == "webp" and part[:4] == b"VP8X":
            parts[place] = (
                part[:12] + b"".join((side - 1 & 0xFFFFFF).to_bytes(3, "little") for side in size) + part[18:]
            )


def changed(kind: str, parts: Parts, draw: random.Random) -> None:
    """One change to the parts, in place."""
    at = draw.randrange(1, len(parts))
    match draw.choice(("repeat", "drop", "swap", "byte", "frame", "make", "make", "size", "cut", "flood")):
        case "repeat":
            parts[at:at] = [parts[at]] * draw.choice((1, 9, 90))
        case "drop" if len(parts) > 2:
            del parts[at]
        case "swap":
            other = draw.randrange(1, len(parts))
            parts[at], parts[other] = parts[other], parts[at]
        case "byte":
            part = bytearray(parts[at])
            for _ in range(draw.choice((1, 3))):
                if part:
                    part[draw.randrange(min(len(part), 40))] = draw.randrange(256)
            parts[at] = bytes(part)
        case "frame" if kind == "jpeg":
            frames = [i for i, part in enumerate(parts) if part[:2] in FRAMES]
            if frames:
                parts[frames[0]] = b"\xff" + bytes([draw.randrange(0xC0, 0xD0)]) + parts[frames[0]][2:]
        case "make":
            parts.insert(at, made_up(kind, draw))
        case "size":
            resized(kind, parts, draw)
        case "cut":
            parts[at] = parts[at][: draw.randrange(len(parts[at]) + 1)]
        case "flood":
            parts[at:at] = [made_up(kind, draw)] * draw.choice((10, 150, 3000))


def files(seconds: float, seed: int) -> Iterator[tuple[str, bytes]]:
    """Changed files until the time is over; equal seeds give equal files, as many as there is time for."""
    draw, end = random.Random(seed), time.monotonic() + seconds
    whole = corpus.whole() | {
        "jpeg-empty-scans": costly.start(size=(640, 480))
        + 6 * costly.scan([1, 2, 3], 0, 0, 0, 0)
        + costly.END,
        "jpeg-refined": costly.empty_refinements(5),
        "png-frames": costly.animated_png(5),
        "webp-frames": costly.animation(5, 256),
    }
    names = [name for name in whole if name.partition("-")[0] in KINDS]
    number = 0
    while time.monotonic() < end:
        name = draw.choice(names)
        kind = name.partition("-")[0]
        take_apart, join = KINDS[kind]
        parts = take_apart(whole[name])
        for _ in range(draw.choice((1, 2, 3, 6))):
            changed(kind, parts, draw)
        number += 1
        if sum(map(len, parts)) < 2**27:
            yield f"{seed}/{number}: {name}", join(parts)


if __name__ == "__main__":
    print(json.dumps(corpus.examine(files(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))))
