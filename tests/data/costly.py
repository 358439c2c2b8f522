"""Image files that look ordinary by their size and would cost much to decode, and good ones like them.

Both are written byte by byte: no encoder makes the first, and few the second.
"""

import struct
import zlib
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from tests.data.corpus import chunk, encoded, photo, png

WIDTH, HEIGHT = 8192, 6144  # the largest JPEG that is read
BLOCKS = WIDTH * HEIGHT // 64
END = b"\xff\xd9"
COLOUR, GREY = (0x11, 0x11, 0x11), (0x11,)


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body


def huffman(kind: int, symbol: int) -> bytes:
    """A table of one code, a zero bit; kind 0 = DC, 1 = AC."""
    return segment(0xC4, bytes([kind << 4, 1, *15 * [0], symbol]))


def start(
    frame: int = 0xC2, sampling: Sequence[int] = COLOUR, *, restart: int = 0, size: tuple = (WIDTH, HEIGHT)
) -> bytes:
    """All of a JPEG before its first scan."""
    planes = b"".join(bytes([i + 1, factors, 0]) for i, factors in enumerate(sampling))
    header = struct.pack(">BHHB", 8, size[1], size[0], len(sampling)) + planes
    tables = segment(0xDB, b"\0" + b"\1" * 64) + huffman(0, 0) + huffman(1, 0)
    return b"\xff\xd8" + tables + segment(frame, header) + segment(0xDD, struct.pack(">H", restart))


def scan(planes: Sequence[int], first: int, last: int, before: int, after: int, data: bytes = b"") -> bytes:
    """Planes, spectral selection and the two bit positions of successive approximation; then coded data."""
    which = b"".join(bytes([plane, 0]) for plane in planes)
    return segment(0xDA, bytes([len(planes)]) + which + bytes([first, last, before << 4 | after])) + data


def refinements(count: int) -> bytes:
    """Every coefficient is 1, by coded data; then each is refined again and again."""
    ones = huffman(1, 0x01) + scan([1], 1, 63, 0, 1, bytes(BLOCKS * 126 // 8 + 8))
    again = huffman(1, 0xE0) + scan([1], 1, 63, 1, 0, bytes(BLOCKS * 63 // 8 + 1000))
    return start(sampling=GREY) + scan([1], 0, 0, 0, 0) + ones + count * again + END


def empty_refinements(count: int) -> bytes:
    """Every coefficient is 0, in runs of blocks; 200 bytes a scan."""
    scans = [huffman(1, 0xE0) + scan([1], 1, 63, int(i > 0), int(i == 0), bytes(200)) for i in range(count)]
    return start(sampling=GREY) + scan([1], 0, 0, 0, 0) + b"".join(scans) + END


def with_segments(segments: bytes) -> bytes:
    data = encoded(photo(64, 48), "JPEG")
    return data[:2] + segments + data[2:]


def with_chunks(before: bytes, after: bytes = b"") -> bytes:
    """A PNG with chunks before and after its image data."""
    whole = png(8, 8, zlib.compress(bytes(9 * 8)))
    at = whole.index(b"IDAT") - 4
    return whole[:at] + before + whole[at:-12] + after + whole[-12:]


def exif_of_overlapping_entries() -> bytes:
    """5,000 entries that all are the same 60 kB: 300 MB once they are read one by one."""
    entries = b"".join(struct.pack("<HHII", 40_000 + i, 1, 60_000, 8) for i in range(5000))
    return segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", 5000) + entries + bytes(4))


def riff(chunks: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WEBP" + chunks


def animation(frames: int, canvas: int) -> bytes:
    """A WebP animation of small frames on a large canvas."""
    image = encoded(photo(16, 16), "WEBP")[12:]
    frame = bytes(6) + bytes([15, 0, 0, 15, 0, 0, 1, 0, 0, 0]) + image
    side = (canvas - 1).to_bytes(3, "little")
    head = b"VP8X" + struct.pack("<I", 10) + b"\x02\0\0\0" + side + side
    head += b"ANIM" + struct.pack("<I", 6) + bytes(6)
    return riff(head + frames * (b"ANMF" + struct.pack("<I", len(frame)) + frame))


def animated_png(frames: int) -> bytes:
    whole = with_chunks(chunk(b"acTL", struct.pack(">II", frames, 0)) + _frame_control(0))
    data = zlib.compress(bytes(9 * 8))
    more = [
        _frame_control(2 * i - 1) + chunk(b"fdAT", struct.pack(">I", 2 * i) + data) for i in range(1, frames)
    ]
    return whole[:-12] + b"".join(more) + whole[-12:]


def _frame_control(number: int) -> bytes:
    return chunk(b"fcTL", struct.pack(">IIIIIHHBB", number, 8, 8, 0, 0, 1, 10, 0, 0))


def deep_png(height: int = 4096) -> bytes:
    """The most samples in the least data: 16-bit RGBA, every row by Paeth's filter."""
    return png(8192, height, zlib.compress((b"\4" + bytes(8 * 8192)) * height, 1), depth=16, colour=6)


def four_planes() -> bytes:
    """A sequential CMYK photo, every coefficient of it coded: 50 MB."""
    data = bytes(BLOCKS * 4 * 127 // 8 + 100)
    return start(0xC0, 4 * GREY) + huffman(1, 0x01) + scan([1, 2, 3, 4], 0, 63, 0, 0, data) + END


def interlaced_png() -> bytes:
    passes = ((8, 8), (8, 8), (4, 8), (4, 4), (2, 4), (2, 2), (1, 2))
    rows = b"".join((b"\4" + bytes(3 * 8192 // across)) * (4096 // down) for across, down in passes)
    data = bytearray(png(8192, 4096, zlib.compress(rows, 1), colour=2))
    data[28] = 1
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    return bytes(data)


_TEXT = zlib.compress(bytes(2**20 - 1), 9)

REFUSED: dict[str, Callable[[], bytes]] = {
    "arithmetic DC": lambda: start(0xCA) + 199 * scan([1, 2, 3], 0, 0, 0, 0) + END,
    "arithmetic DC, restarts": lambda: start(0xCA, restart=1) + 199 * scan([1, 2, 3], 0, 0, 0, 0) + END,
    "arithmetic AC": lambda: start(0xCA, GREY) + scan([1], 0, 0, 0, 0) + 198 * scan([1], 1, 63, 0, 0) + END,
    "arithmetic sequential": lambda: start(0xC9) + scan([1, 2, 3], 0, 63, 0, 0) + END,
    "lossless": lambda: start(0xC3) + scan([1, 2, 3], 1, 0, 0, 0) + END,
    "hierarchical": lambda: start(0xC5) + scan([1, 2, 3], 0, 63, 0, 0) + END,
    "Huffman DC, restarts": lambda: start(restart=1) + 199 * scan([1, 2, 3], 0, 0, 0, 0) + END,
    "Huffman refinements": lambda: empty_refinements(190),
    "refinements with data": lambda: refinements(17),
    "sequential scans": lambda: start(0xC1) + 66 * b"".join(scan([i], 0, 63, 0, 0) for i in (1, 2, 3)) + END,
    "58 MB DC": lambda: start() + 58 * scan([1, 2, 3], 0, 0, 0, 0, bytes(10**6)) + END,
    "coefficients of four planes": lambda: start(0xC2, 4 * GREY) + scan([1, 2, 3, 4], 0, 0, 0, 0) + END,
    "1,000 Exif segments": lambda: with_segments(1000 * segment(0xE1, b"Exif\0\0" + bytes(60_000))),
    "2 M APP5 segments": lambda: with_segments(2_000_000 * segment(0xE5, b"")),
    "a million comments": lambda: with_segments(1_000_000 * segment(0xFE, b"x")),
    "a million scans": lambda: start(size=(8, 8)) + 1_000_000 * scan([1], 0, 0, 0, 0) + END,
    "1 M tEXt chunks": lambda: with_chunks(b"".join(chunk(b"tEXt", b"k%d\0" % i) for i in range(1_000_000))),
    "a million text chunks behind": lambda: with_chunks(b"", 1_000_000 * chunk(b"tEXt", b"k\0v")),
    "a million empty IDAT": lambda: with_chunks(1_000_000 * chunk(b"IDAT", b"")),
    "16-bit RGBA": deep_png,
    "a million WebP chunks": lambda: riff(encoded(photo(16, 16), "WEBP")[12:] + 1_000_000 * b"JUNK\0\0\0\0"),
    "fill bytes amid data": lambda: (
        encoded(photo(64, 48), "JPEG")[:-2] + (b"\xff" * 10**6 + b"\0") * 100 + END
    ),
    "WebP canvas": lambda: animation(2, 16_384),
}

READ: dict[str, Callable[[], bytes]] = {
    "large progressive": lambda: start() + 6 * scan([1, 2, 3], 0, 0, 0, 0) + END,
    "EXIF of overlapping entries": lambda: with_segments(exif_of_overlapping_entries()),
    "text bombs": lambda: with_chunks(60 * chunk(b"zTXt", b"k\0\0" + _TEXT)),
    "international text bombs": lambda: with_chunks(60 * chunk(b"iTXt", b"k\0\1\0\0\0" + _TEXT)),
    "profile bomb": lambda: with_chunks(chunk(b"iCCP", b"p\0\0" + zlib.compress(bytes(10**8), 9))),
    "10,000 frames": lambda: animated_png(10_000),
    "data behind the rows": lambda: png(8, 8, zlib.compress(bytes(3 * 10**8), 9)),
    "interlaced": interlaced_png,
    "animation": lambda: animation(50_000, 4_096),
    "255 profile segments": lambda: with_segments(
        b"".join(segment(0xE2, b"ICC_PROFILE\0" + bytes([i + 1, 255]) + bytes(60_000)) for i in range(255))
    ),
    "fill bytes": lambda: encoded(photo(64, 48), "JPEG")[:-2] + b"\xff" * 10**8 + END,
    "restarts": lambda: encoded(photo(64, 48), "JPEG")[:-2] + b"\xff\xd0" * 5 * 10**7 + END,
    "zeros": lambda: encoded(photo(64, 48), "JPEG")[:-2] + bytes(10**8) + END,
    "escaped bytes": lambda: encoded(photo(64, 48), "JPEG")[:-2] + b"\xff\x00" * 5 * 10**7 + END,
    "restarts, progressive": lambda: (
        encoded(photo(64, 48), "JPEG", progressive=True)[:-2] + b"\xff\xd0" * 5 * 10**7 + END
    ),
}


def trailing() -> bytes:
    """What phones put behind a photo: video, with every marker in it."""
    return np.random.default_rng(0).bytes(32 * 2**20)


def thumbnail_exif(orientation: int = 1) -> bytes:
    """EXIF data whose second directory holds a JPEG, with its own scans and end."""
    small = encoded(photo(64, 48), "JPEG", progressive=True)
    first = struct.pack("<HHHII", 1, 0x0112, 3, 1, orientation) + struct.pack("<I", 26)
    second = struct.pack("<HHHIIHHIII", 2, 0x0201, 4, 1, 56, 0x0202, 4, 1, len(small), 0)
    return b"Exif\0\0II*\0\x08\0\0\0" + first + second + small


def multi_image(image: Image.Image, **options) -> bytes:
    """An MPO file: a photo, and a smaller one behind it."""
    return encoded(image, "MPO", save_all=True, append_images=[photo(64, 48, 1)], **options)
