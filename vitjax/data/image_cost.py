"""Decoding cost of an image file, computed before decoding, and the file without metadata.

A file's size and its pixels do not bound its cost: a JPEG of 3 kB can go over 50 megapixels 200 times, and
Pillow reads metadata in time quadratic in its size. So each format's outer structure is walked here, which is
linear in the file's bytes. What is too costly is refused, and the decoders see a file without its metadata,
its further images and whatever follows it: none of that can cost anything, or make a good photo unreadable.
Only the EXIF data is handed back.

Sources: PNG third edition, RFC 9649 (WebP); JPEG is in `jpeg_cost`.
"""

import struct
import zlib

from vitjax.data.image_limits import EXIF_HEADER, Inspected, Refusal, check_memory, check_size, damaged
from vitjax.data.jpeg_cost import inspect_jpeg

MAX_CHUNKS = 65_536  # of a PNG or WebP; encoders write 8 kB or more in each
MAX_SAMPLE_BYTES = 201_326_592  # of a PNG's samples, inflated: 8192 x 4096 of 16-bit RGB


def inspect(data: bytes) -> Inspected:
    """Walks a JPEG, PNG or WebP file; nothing is decoded.

    Raises:
        Refusal: another format, damaged, or more costly than about 1 s of one core or `MAX_MEMORY`.
    """
    if data.startswith(b"\xff\xd8\xff"):
        return inspect_jpeg(data)
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return _inspect_png(data)
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return _inspect_webp(data)
    raise Refusal("is not a JPEG, PNG or WebP image; convert or remove it.")


def _inspect_png(data: bytes) -> Inspected:
    view, at = memoryview(data), 8
    kept, exif, size, last = [view[:8]], b"", None, b""
    for _ in range(MAX_CHUNKS):
        if at + 8 > len(data):
            break
        length, kind = struct.unpack_from(">I4s", data, at)
        chunk, body = view[at : at + 12 + length], view[at + 8 : at + 8 + length]
        if size is None:
            size = _png_header(kind, body)
            kept.append(chunk)
        if kind == b"IEND":
            break
        if kind == b"IDAT" and last in (b"", b"IDAT"):
            last = kind
            kept.append(chunk)
        elif kind == b"eXIf" and zlib.crc32(chunk[4:-4]) == int.from_bytes(chunk[-4:]):
            exif = EXIF_HEADER + body
        elif kind in (b"PLTE", b"tRNS") and not last:
            kept.append(chunk)
        last = last and kind  # behind the first run of IDAT are further images, or nothing that is read
        at += 12 + length
    else:
        raise Refusal(f"has more than {MAX_CHUNKS} chunks; save it anew.")
    if size is None or not last:
        raise damaged("a PNG without an image")
    image = b"".join(kept)
    check_memory(len(image) + 8 * size[0] * size[1])  # as decoded, and as RGB
    return Inspected(size, image, exif)


def _png_header(kind: bytes, body: memoryview) -> tuple[int, int]:
    if kind != b"IHDR" or len(body) < 13:
        raise damaged("PNG header")
    width, height, depth, colour = struct.unpack_from(">IIBB", body)
    check_size((width, height), "PNG")
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}.get(colour, 4)
    if width * height * channels * depth > 8 * MAX_SAMPLE_BYTES:
        raise Refusal(
            f"is too large: {width} x {height} pixels of {channels} x {depth} bits; save it with 8 bits."
        )
    return width, height


_WEBP_IMAGE = {b"VP8X", b"ANIM", b"ANMF", b"ALPH", b"VP8 ", b"VP8L"}


def _inspect_webp(data: bytes) -> Inspected:
    view, kept, at = memoryview(data), {}, 12
    end = 8 + int.from_bytes(data[4:8], "little")
    for _ in range(MAX_CHUNKS):
        if at + 8 > min(end, len(data)):
            break
        kind, length = struct.unpack_from("<4sI", data, at)
        if at + 8 + length > len(data):
            raise damaged("cut inside a chunk")
        # The first of each kind: of an animation, its first frame.
        kept.setdefault(kind, view[at : at + 8 + length])
        at += 8 + length + length % 2
    else:
        raise Refusal(f"has more than {MAX_CHUNKS} chunks; save it anew.")
    if end > len(data):
        raise damaged("cut short")
    exif = bytes(kept.get(b"EXIF", view[:0])[8:])
    chunks = [bytes(chunk) for kind, chunk in kept.items() if kind in _WEBP_IMAGE]
    size = _webp_size(chunks[0] if chunks else b"")
    if chunks[0].startswith(b"VP8X"):  # it also says which metadata there is
        chunks[0] = chunks[0][:8] + bytes([chunks[0][8] & _ALPHA_OR_ANIMATION]) + chunks[0][9:]
    image = b"WEBP" + b"".join(chunk + bytes(len(chunk) % 2) for chunk in chunks)
    # Its decoder copies the file, and holds the image four times.
    check_memory(2 * len(image) + 16 * size[0] * size[1])
    return Inspected(size, b"RIFF" + struct.pack("<I", len(image)) + image, exif)


_ALPHA_OR_ANIMATION = 0x12


def _webp_size(chunk: bytes) -> tuple[int, int]:
    """Size that the first chunk states."""
    kind, body = chunk[:4], chunk[8:]
    if kind == b"VP8X" and len(body) >= 10:
        size = 1 + int.from_bytes(body[4:7], "little"), 1 + int.from_bytes(body[7:10], "little")
    elif kind == b"VP8 " and body[3:6] == b"\x9d\x01\x2a" and len(body) >= 10:
        size = int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF
    elif kind == b"VP8L" and body[:1] == b"\x2f" and len(body) >= 5:
        bits = int.from_bytes(body[1:5], "little")
        size = 1 + (bits & 0x3FFF), 1 + (bits >> 14 & 0x3FFF)
    else:
        raise damaged("WebP header")
    check_size(size, "WEBP")
    return size
