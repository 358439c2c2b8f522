"""How large an image may be, and what its file may cost: the limits that all formats share."""

from typing import NamedTuple

from vitjax.errors import UserError

MAX_SIDE = 32_767  # pixels
MAX_PIXELS = {
    "JPEG": 50_331_648,  # 8192 x 6144: the largest phone photos in wide use
    "PNG": 33_554_432,  # 8192 x 4096: slower to decode, and never halved
    "WEBP": 20_971_520,  # 5120 x 4096: its decoder holds three more copies of the image
}
MAX_PIXELS_DECODED = 50_331_648  # of images that come as arrays or PIL images
HALVED_ABOVE = 25_165_824  # pixels: a larger JPEG is decoded at half its sides
MAX_BYTES = 128 * 2**20  # of a file
MAX_MEMORY = 420 * 2**20  # bytes that decoding takes; the interpreter and its packages have the rest of 512


class Refusal(UserError):
    """Why a file is not decoded; the text follows the file's name."""


class Inspected(NamedTuple):
    """A file that may be decoded.

    Attributes:
        size: width and height as stored, pixels.
        data: the file without what its pixels do not need.
        exif: its EXIF data; empty where there is none.
    """

    size: tuple[int, int]
    data: bytes
    exif: bytes


EXIF_HEADER = b"Exif\0\0"


def check_size(size: tuple[int, int], kind: str | None) -> None:
    """Raises Refusal for an image of more pixels than are read of its format (None: no file)."""
    width, height = size
    most = MAX_PIXELS.get(kind or "", MAX_PIXELS_DECODED)
    if width < 1 or height < 1:
        raise Refusal(f"has no pixels ({width} x {height}); replace or remove it.")
    if width * height > most or max(size) > MAX_SIDE:
        raise Refusal(
            f"is too large: {width} x {height} pixels, above the limit of {most:,} pixels "
            f"or {MAX_SIDE:,} a side; save it smaller."
        )


def damaged(what: str) -> Refusal:
    """The refusal of a file that is not as its format says."""
    return Refusal(f"cannot be decoded ({what}); replace or remove it.")


def check_memory(needed: int) -> None:
    """Raises Refusal where decoding would take more than `MAX_MEMORY`; `needed` in bytes."""
    if needed > MAX_MEMORY:
        raise Refusal(
            f"takes {needed >> 20} MiB to decode, above the limit of {MAX_MEMORY >> 20}; save it smaller."
        )
