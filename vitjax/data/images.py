"""Images from files, bytes, PIL images and arrays, with limits that hold before anything is decoded.

Image files are untrusted. Only JPEG, PNG and WebP are opened, by allow-list: most decoder bugs and all
slow formats are elsewhere. What a file costs is counted before a pixel is decoded (`image_cost`), so none
takes more than about 2 s of CPU and 512 MiB. A damaged file is refused, never half read.
"""

import contextlib
import os
import stat
import struct
import threading
import zlib
from collections.abc import Iterator
from io import BytesIO

import numpy as np
from PIL import Image, ImageFile

from vitjax.data.image_cost import inspect
from vitjax.data.image_limits import HALVED_ABOVE, MAX_BYTES, Inspected, Refusal, check_size
from vitjax.errors import ImageError, UserError
from vitjax.system.files import expanded

FORMATS = ("JPEG", "PNG", "WEBP")

ImageLike = str | os.PathLike[str] | bytes | Image.Image | np.ndarray

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


def read_image(source: ImageLike) -> Image.Image:
    """Image as 8-bit RGB, turned the way its EXIF data says.

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
        return _from_pil(source)
    return _decode(*_inspect(source))


def image_size(source: ImageLike) -> tuple[int, int]:
    """Width and height in pixels of an image turned the way its EXIF data says, without decoding it.

    Args:
        source: as for `read_image`, which returns that size, or half of it for a JPEG above 25 megapixels.

    Raises:
        ImageError: as there, as far as a file's header tells.
    """
    if isinstance(source, np.ndarray):
        return source.shape[1], source.shape[0]
    if isinstance(source, Image.Image):
        size, exif = source.size, source.info.get("exif")
    else:
        (size, _, exif), _ = _inspect(source)
    width, height = size
    return (height, width) if _orientation(exif) >= 5 else (width, height)


def _inspect(source: str | os.PathLike[str] | bytes) -> tuple[Inspected, str]:
    """A file that may be decoded, and what errors call it."""
    if isinstance(source, bytes):
        name = f"image of {len(source)} bytes"
        return _allow(source, name), name
    name = repr(os.fspath(source))
    try:
        source = expanded(source)
        status = os.stat(source)
        if not stat.S_ISREG(status.st_mode):
            what = "a folder" if stat.S_ISDIR(status.st_mode) else "no ordinary file"
            raise ImageError(f"{name} is {what}; give an image file.")
        with open(source, "rb") as file:
            return _allow(file.read(MAX_BYTES + 1), name, status.st_size), name
    except FileNotFoundError:
        raise ImageError(f"{name} does not exist; check the path.") from None
    except PermissionError:
        raise ImageError(f"{name} may not be read; check its permissions.") from None
    except ImageError:
        raise
    except MemoryError:
        raise ImageError(f"{name} does not fit into memory; save it smaller.") from None
    except (OSError, ValueError) as error:  # too long a name, a loop of links, a zero byte in it
        raise ImageError(f"{name} cannot be opened ({_line(error)}); check the path.") from None


def _allow(data: bytes, name: str, size: int = 0) -> Inspected:
    """The file without what its pixels do not need."""
    if not data:
        raise ImageError(f"{name} is empty (0 bytes); replace or remove it.")
    if (size := max(size, len(data))) > MAX_BYTES:
        raise ImageError(
            f"{name} has {size / 2**20:.0f} MiB, above the limit of {MAX_BYTES // 2**20}; save it smaller."
        )
    try:
        return inspect(data)
    except Refusal as reason:
        raise ImageError(f"{name} {reason}") from None


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    """What Pillow raises, as one line that names the image."""
    try:
        yield
    except ImageError:
        raise
    except Refusal as reason:
        raise ImageError(f"{name} {reason}") from None
    except Image.UnidentifiedImageError:
        raise ImageError(f"{name} is not a JPEG, PNG or WebP image; convert or remove it.") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise ImageError(f"{name} is too large for Image.MAX_IMAGE_PIXELS; save it smaller.") from None
    except MemoryError:
        raise ImageError(f"{name} does not fit into memory; save it smaller.") from None
    except _DAMAGE as error:
        raise ImageError(f"{name} cannot be decoded ({_line(error)}); replace or remove it.") from None


def _decode(file: Inspected, name: str, *, mode: str | None = None, scale: int = 1) -> Image.Image:
    """An inspected file as RGB; a JPEG in the mode and at 1 / scale of its sides, as `draft` has them."""
    with _explained(name):
        return _turned(_pixels(file, mode, scale), file.exif)


def _pixels(file: Inspected, mode: str | None, scale: int) -> Image.Image:
    with Image.open(BytesIO(file.data), formats=FORMATS) as image:
        check_size(image.size, image.format)
        if image.width * image.height > HALVED_ABOVE:
            scale = max(scale, 2)
        if scale > 1 or mode is not None:
            image.draft(mode, (max(1, image.width // scale), max(1, image.height // scale)))
        return _to_rgb(image)


_CALLERS_FILES = threading.Lock()  # several threads may be given the same open file


def _from_pil(image: Image.Image) -> Image.Image:
    """A new image of the caller's, which stays as it is: one that has only been opened is not loaded."""
    name = f"PIL image {getattr(image, 'filename', '') or image.mode!r}"
    with _explained(name):
        kind = "JPEG" if image.format == "MPO" else image.format
        check_size(image.size, kind)
        data = _unloaded(image)
        if data is None or kind is None:
            return _turned(_to_rgb(image), image.info.get("exif"))
        if kind in FORMATS:
            # A further image of an MPO file is a JPEG of its own.
            file = _allow(data[getattr(image, "offset", 0) :], name)
            if kind == "JPEG" and (drafted := getattr(image, "decoderconfig", ())):
                return _decode(file, name, mode=image.mode, scale=drafted[0])
            if kind == "JPEG" or not image.tell():
                return _decode(file, name)
        with Image.open(BytesIO(data), formats=(kind,)) as own:
            own.seek(image.tell())
            return _turned(_to_rgb(own), own.info.get("exif"))


def _unloaded(image: Image.Image) -> bytes | None:
    """The file of an image that has been opened only; None where its pixels are in memory."""
    if not isinstance(image, ImageFile.ImageFile) or image.fp is None:
        return None
    if not image.tile and getattr(image, "_im", None) is not None:
        return None
    with _CALLERS_FILES:
        offset = image.fp.tell()
        try:
            image.fp.seek(0)
            return image.fp.read()
        finally:
            image.fp.seek(offset)


def _turned(image: Image.Image, exif: object) -> Image.Image:
    turn = _TURNS.get(_orientation(exif))
    image = image if turn is None else image.transpose(turn)
    image.info = {}  # or a later look at its EXIF data would turn it a second time
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image.copy()  # or the caller's own image would be handed back
    if image.mode.startswith("I"):
        # Pillow clips 16-bit grey at 255; the high byte is what it keeps of 16-bit colour.
        samples = np.asarray(image)
        if image.mode == "I" and (samples.min() < 0 or samples.max() > 65_535):
            raise UserError("integer samples beyond 16 bits")
        return Image.fromarray((samples >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        raise UserError("floating-point samples have no fixed range; scale them to 8 bits first")
    if image.mode in ("P", "PA"):
        # By way of RGBA, as Pillow wants it where palette entries are transparent.
        image = image.convert("RGBA")
    return image.convert("RGB")


def _from_array(array: np.ndarray) -> Image.Image:
    name = f"array of {array.dtype} {array.shape}"
    channels = array.shape[2] if array.ndim == 3 else 1
    if array.dtype != np.uint8 or array.ndim not in (2, 3) or channels not in (1, 3, 4):
        raise ImageError(f"{name} is not an image; give uint8 (height, width, 3), values 0 to 255.")
    with _explained(name):
        check_size((array.shape[1], array.shape[0]), None)
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


def _line(error: BaseException) -> str:
    """Reason on one line; file names and the like inside are cut, they can hold anything."""
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    text = " ".join(reason.split()) or type(error).__name__
    return text.encode("ascii", "backslashreplace").decode()[:120]
