"""Pictures from files, bytes, PIL images and arrays, with limits that hold before anything is decoded.

Image files come from strangers. Only JPEG, PNG and WebP are opened, by allow-list: most decoder bugs and all
slow formats are elsewhere. The size in the header is checked before a pixel is decoded, so no file costs more
than about 2 s and 512 MiB. A damaged file is refused, never half read.
"""

import os
import stat
import struct
import zlib
from io import BytesIO

import numpy as np
from PIL import Image

from vitjax.files import expanded

FORMATS = ("JPEG", "PNG", "WEBP")

MAX_SIDE = 32_767  # pixels
MAX_PIXELS = {
    "JPEG": 50_331_648,  # 8192 x 6144: the largest phone photos in wide use
    "MPO": 50_331_648,  # a JPEG with more pictures behind the first
    "PNG": 33_554_432,  # 8192 x 4096: slower to decode, and never halved
    "WEBP": 20_971_520,  # 5120 x 4096: its decoder holds three more copies of the picture
}
MAX_PIXELS_DECODED = 50_331_648  # of pictures that come as arrays or PIL images
MAX_SCANS = 200  # of a JPEG: each goes over the whole picture; encoders write 10 or so
MAX_BYTES = 128 * 2**20  # of a file: metadata chunks are read whole before the size is known
HALVED_ABOVE = 25_165_824  # pixels: a larger JPEG is decoded at half its sides

# What Pillow raises on damaged files; tests/data/corpus.py makes some to find out.
_DAMAGE = (
    OSError,  # UnidentifiedImageError is one
    ValueError,
    SyntaxError,
    EOFError,
    IndexError,
    KeyError,
    TypeError,
    OverflowError,
    ArithmeticError,
    NotImplementedError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Warning,  # where warnings are errors, those of Pillow about damage count as damage
)

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(ValueError):
    """A picture cannot be used; the message is one line: which, what is wrong, what to do."""


def read_image(source: str | os.PathLike | bytes | Image.Image | np.ndarray) -> Image.Image:
    """Picture as 8-bit RGB, turned the way its EXIF data says.

    Transparency is dropped, not blended, as `convert("RGB")` does in the pipelines the weights were trained
    with. 16-bit samples keep their high byte, grey as well as colour. Of an animation the first frame counts.
    A JPEG above 25 megapixels is decoded at half its sides, which keeps it within the memory limit.

    Args:
        source: path of a JPEG, PNG or WebP file, the bytes of one, a PIL image of any format, or a uint8
            array (h, w), (h, w, 1), (h, w, 3) or (h, w, 4).

    Returns:
        A new image, in memory. Files may have `MAX_PIXELS` by format, the rest `MAX_PIXELS_DECODED`.

    Raises:
        ImageError: missing, unreadable, of another format, damaged, or too large.
    """
    if isinstance(source, np.ndarray):
        return _from_array(source)
    if isinstance(source, Image.Image):
        name = f"PIL image {getattr(source, 'filename', '') or source.mode!r}"
        return _decode(source, name)
    if isinstance(source, bytes):
        return _open(BytesIO(source), f"image of {len(source)} bytes", len(source))
    name = repr(os.fspath(source))
    try:
        source = expanded(source)
        status = os.stat(source)
        if not stat.S_ISREG(status.st_mode):
            what = "a folder" if stat.S_ISDIR(status.st_mode) else "no ordinary file"
            raise ImageError(f"{name} is {what}; give an image file.")
        with open(source, "rb") as file:
            return _open(file, name, status.st_size)
    except FileNotFoundError:
        raise ImageError(f"{name} does not exist; check the path.") from None
    except PermissionError:
        raise ImageError(f"{name} may not be read; check its permissions.") from None
    except ImageError:
        raise
    except (OSError, ValueError) as error:  # too long a name, a loop of links, a zero byte in it
        raise ImageError(f"{name} cannot be opened ({_line(error)}); check the path.") from None


def _count_scans(file) -> int:
    """Starts of scans in a JPEG, those of its thumbnails too; 0 in other files. Coded data holds none."""
    count, last = 0, b""
    if file.read(2) == b"\xff\xd8":
        while chunk := file.read(2**20):
            count, last = count + (last + chunk).count(b"\xff\xda"), chunk[-1:]
    file.seek(0)
    return count


def _open(file, name: str, size: int) -> Image.Image:
    if size == 0:
        raise ImageError(f"{name} is empty (0 bytes); replace or remove it.")
    if size > MAX_BYTES:
        raise ImageError(
            f"{name} has {size / 2**20:.0f} MiB, above the limit of {MAX_BYTES // 2**20}; save it smaller."
        )
    if (scans := _count_scans(file)) > MAX_SCANS:
        raise ImageError(f"{name} has {scans} scans, above the limit of {MAX_SCANS}; save it anew.")
    try:
        with Image.open(file, formats=FORMATS) as image:
            return _decode(image, name)
    except Image.UnidentifiedImageError:
        raise ImageError(f"{name} is not a JPEG, PNG or WebP image; convert or remove it.") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(
            f"{name} is too large: above {MAX_PIXELS['JPEG']:,} pixels; save it smaller."
        ) from None
    except ImageError:
        raise
    except MemoryError:
        raise ImageError(f"{name} does not fit into memory; save it smaller.") from None
    except _DAMAGE as error:
        raise _damaged(name, error) from None


def _decode(image: Image.Image, name: str) -> Image.Image:
    _check_size(image.size, image.format, name)
    try:
        if image.format in ("JPEG", "MPO") and image.width * image.height > HALVED_ABOVE:
            image.draft(None, (image.width // 2, image.height // 2))
        image.load()
        turn = _TURNS.get(_orientation(image.info.get("exif")))
        rgb = _to_rgb(image)
        rgb = rgb if turn is None else rgb.transpose(turn)
        rgb.info = {}  # or a later look at its EXIF data would turn it a second time
        return rgb
    except MemoryError:
        raise ImageError(f"{name} does not fit into memory; save it smaller.") from None
    except _DAMAGE as error:
        raise _damaged(name, error) from None


def _check_size(size: tuple[int, int], kind: str | None, name: str) -> None:
    width, height = size
    most = MAX_PIXELS.get(kind or "", MAX_PIXELS_DECODED)
    if width < 1 or height < 1:
        raise ImageError(f"{name} has no pixels ({width} x {height}); replace or remove it.")
    if width * height > most or max(size) > MAX_SIDE:
        raise ImageError(
            f"{name} is too large: {width} x {height} pixels, above the limit of {most:,} pixels "
            f"or {MAX_SIDE:,} a side; save it smaller."
        )


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image.copy()  # or the caller's own picture would be handed back
    if image.mode.startswith("I"):
        # Pillow clips 16-bit grey at 255; the high byte is what it keeps of 16-bit colour.
        samples = np.asarray(image)
        if image.mode == "I" and (samples.min() < 0 or samples.max() > 65_535):
            raise ValueError("integer samples beyond 16 bits")
        return Image.fromarray((samples >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point samples have no fixed range; scale them to 8 bits first")
    if image.mode in ("P", "PA"):
        # By way of RGBA, as Pillow wants it where palette entries are transparent.
        image = image.convert("RGBA")
    return image.convert("RGB")


def _from_array(array: np.ndarray) -> Image.Image:
    name = f"array of {array.dtype} {array.shape}"
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or channels not in (1, 3, 4):
        raise ImageError(f"{name} is not an image; give uint8 (height, width, 3), values 0 to 255.")
    _check_size((array.shape[1], array.shape[0]), None, name)
    flat = array[:, :, 0] if array.ndim == 3 and channels == 1 else array
    return Image.fromarray(np.ascontiguousarray(flat)).convert("RGB")


def _orientation(exif: object) -> int:
    """EXIF orientation 1 to 8, and 1 where there is none or the data is damaged.

    Read here and not by Pillow, which warns about damaged metadata of photos that are otherwise fine, parses
    all of it, and reads it from XML too.
    """
    if not isinstance(exif, bytes):
        return 1
    data = exif.removeprefix(b"Exif\x00\x00")
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 8:
        return 1
    start = struct.unpack_from(order + "I", data, 4)[0]
    if start + 2 > len(data):
        return 1
    entries = struct.unpack_from(order + "H", data, start)[0]
    for at in range(start + 2, min(start + 2 + 12 * entries, len(data) - 11), 12):
        tag, kind, count, value = struct.unpack_from(order + "HHIH", data, at)
        if (tag, kind, count) == (0x0112, 3, 1):
            return value if 1 <= value <= 8 else 1
    return 1


def _damaged(name: str, error: Exception) -> ImageError:
    return ImageError(f"{name} cannot be decoded ({_line(error)}); replace or remove it.")


def _line(error: BaseException) -> str:
    """Reason on one line; file names and the like inside are cut, they can hold anything."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    text = " ".join(reason.split()) or type(error).__name__
    return text.encode("ascii", "backslashreplace").decode()[:120]
