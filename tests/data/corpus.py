"""Some 2,000 damaged, odd and hostile image files, made from a seed; run as a program it reads them all.

As a program it prints one JSON object: files, accepted, refused, the slowest read in seconds of CPU, the peak
of resident memory in MiB, and everything that went wrong. It is a program so that the memory it counts is its
own. With a folder as its argument it reads the files there instead.
"""

import contextlib
import functools
import io
import json
import random
import struct
import sys
import time
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

COUNT = 2000


def photo(width: int, height: int, seed: int = 0) -> Image.Image:
    """Smooth colours with detail, so that every codec has something to do."""
    raw = np.random.default_rng(seed).integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), dtype=np.uint8)
    return Image.fromarray(raw).resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, data: bytes, *, depth: int = 8, colour: int = 0) -> bytes:
    """A PNG file of any stated size, whatever its data holds."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def bomb(side: int) -> bytes:
    """One-bit pixels, all alike: a real, complete image of side x side in few bytes."""
    squeeze = zlib.compressobj(9)
    row = bytes(1 + (side + 7) // 8)
    packed = b"".join([squeeze.compress(row * 100) for _ in range(side // 100)] + [squeeze.flush()])
    return png(side, side, packed, depth=1)


def rotated(kind: str, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(photo(96, 64), kind, exif=exif.tobytes())


@functools.cache
def whole() -> dict[str, bytes]:
    """Good files of every mode the three formats have."""
    image = photo(200, 150)
    alpha = image.convert("RGBA")
    alpha.putalpha(Image.linear_gradient("L").resize(image.size))
    deep = Image.fromarray(
        (np.arange(150 * 200, dtype=np.uint32).reshape(150, 200) * 2 % 65536).astype(np.uint16)
    )
    palette = image.quantize(32)
    files = {
        "jpeg": encoded(image, "JPEG"),
        "jpeg-progressive": encoded(image, "JPEG", progressive=True),
        "jpeg-grey": encoded(image.convert("L"), "JPEG"),
        "jpeg-cmyk": encoded(image.convert("CMYK"), "JPEG"),
        "png": encoded(image, "PNG"),
        "png-16": encoded(deep, "PNG"),
        "png-palette": encoded(palette, "PNG"),
        "png-palette-alpha": encoded(palette, "PNG", transparency=bytes(range(0, 256, 8))),
        "png-alpha": encoded(alpha, "PNG"),
        "png-grey-alpha": encoded(alpha.convert("LA"), "PNG"),
        "png-one-bit": encoded(image.convert("1"), "PNG"),
        "png-animated": encoded(image, "PNG", save_all=True, append_images=[photo(200, 150, 1)]),
        "webp": encoded(image, "WEBP"),
        "webp-lossless": encoded(image, "WEBP", lossless=True),
        "webp-alpha": encoded(alpha, "WEBP"),
        "webp-animated": encoded(image, "WEBP", save_all=True, append_images=[photo(200, 150, 1)]),
        "one-pixel": encoded(photo(1, 1), "PNG"),
        "tall": encoded(photo(1, 30_000), "PNG"),
        "wide": encoded(photo(30_000, 1), "JPEG"),
    }
    for kind in ("JPEG", "PNG", "WEBP"):
        files |= {f"turned-{kind}-{turn}": rotated(kind, turn) for turn in range(1, 9)}
    return files


def hostile() -> dict[str, bytes]:
    """Files that must be refused."""
    image = photo(64, 64)
    return {
        "empty": b"",
        "bomb": bomb(30_000),
        "bomb-lying": png(2_000_000_000, 2_000_000_000, zlib.compress(bytes(1000))),
        "no-pixels": png(0, 0, zlib.compress(b"")),
        "text": b"<script>alert(1)</script>" * 20,
        "gif-as-jpg": encoded(image, "GIF"),
        "tiff-as-jpg": encoded(image, "TIFF"),
        "bmp-as-jpg": encoded(image, "BMP"),
        "ppm-as-jpg": encoded(image, "PPM"),
        "eps-as-jpg": encoded(image, "EPS"),
        "pdf-as-jpg": encoded(image, "PDF"),
        "short-data": png(5000, 5000, zlib.compress(bytes(1000))),
    }


def large(name: str) -> bytes:
    """A good file at the limit of size, in the most costly mode of its format."""
    exif = Image.Exif()
    exif[0x0112] = 6
    turn = exif.tobytes()
    if name == "grey-16":
        return png(8192, 4096, zlib.compress((b"\0" + bytes(range(256)) * 64) * 4096, 1), depth=16)
    sides = {"webp": (5120, 4096), "palette": (8192, 4096)}
    big = photo(*sides.get(name, (8192, 6144)))
    match name:
        case "jpeg":
            return encoded(big, "JPEG", quality=80, subsampling=0, progressive=True, exif=turn)
        case "cmyk":
            return encoded(big.convert("CMYK"), "JPEG", quality=50)
        case "palette":
            return encoded(big.convert("P"), "PNG", compress_level=1, exif=turn)
        case "webp":
            return encoded(big, "WEBP", quality=50, method=0, exif=turn)
    raise ValueError(name)


def mutations(count: int) -> Iterator[tuple[str, bytes]]:
    """Good and hostile files, then damaged ones up to `count`."""
    good, draw = whole(), random.Random(20)
    made = 0
    for name, data in [*good.items(), *hostile().items()]:
        yield name, data
        made += 1
    for name, data in good.items():
        for twentieth in range(1, 20):
            yield f"{name} cut at {5 * twentieth} %", data[: len(data) * twentieth // 20]
            made += 1
    names = sorted(good)
    while made < count:
        name = draw.choice(names)
        data, made = bytearray(good[name]), made + 1
        kind = draw.choice(("flip", "flip-header", "splice", "size"))
        if kind == "splice":
            other = good[draw.choice(names)]
            data = data[: draw.randrange(len(data))] + other[draw.randrange(len(other)) :]
        elif kind == "size":
            # Large numbers wherever a header might keep a size.
            at = draw.randrange(min(len(data) - 4, 200))
            data[at : at + 4] = draw.choice((b"\xff" * 4, b"\x00\x00\x75\x30", b"\x7f\xff" * 2, bytes(4)))
        else:
            end = len(data) if kind == "flip" else min(len(data), 300)
            for _ in range(draw.choice((1, 4, 32))):
                data[draw.randrange(end)] ^= 1 << draw.randrange(8)
        yield f"{kind} {made} of {name}", bytes(data)


def files_of(folder: str) -> Iterator[tuple[str, bytes]]:
    for path in sorted(Path(folder).iterdir()):
        yield path.name, path.read_bytes()


def forget_peak() -> None:
    """The peak of resident memory counts from now on, where the system allows it."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def peak_mib() -> float:
    """Peak of resident memory; ru_maxrss would count the program that started this one too."""
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def examine(files: Iterable[tuple[str, bytes]]) -> dict:
    """Reads files; what it took, and everything that went wrong.

    Seconds are of CPU, on all threads: other programs of a busy machine do not count.
    """
    from vitjax.data import ImageError, Preprocess, read_image

    good, bad = set(whole()), set(hostile())
    prepare = Preprocess(224, 0.9, "bicubic", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    report = {"files": 0, "accepted": 0, "refused": 0, "slowest": 0.0, "peak_mib": 0.0, "wrong": []}
    worst = report["worst"] = {"seconds": "", "mib": ""}
    for name, data in files:
        report["files"] += 1
        forget_peak()
        start = time.process_time()
        try:
            pixels = prepare(read_image(data))
            report["accepted"] += 1
            if name in bad:
                report["wrong"].append(f"{name}: accepted")
            if pixels.shape != (224, 224, 3) or not np.isfinite(pixels).all():
                report["wrong"].append(f"{name}: pixels {pixels.shape}")
        except ImageError as error:
            report["refused"] += 1
            if name in good:
                report["wrong"].append(f"{name}: {error}")
            if len(str(error).splitlines()) != 1 or len(str(error)) > 400 or not str(error).isprintable():
                report["wrong"].append(f"{name}: message {str(error)!r}")
        except Exception as error:  # noqa: BLE001 (what the test looks for)
            report["wrong"].append(f"{name}: {type(error).__name__}: {error}")
        seconds = time.process_time() - start
        if seconds > report["slowest"]:
            report["slowest"], worst["seconds"] = seconds, name
        if (peak := peak_mib()) > report["peak_mib"]:
            report["peak_mib"], worst["mib"] = peak, name
        if seconds > 2:
            report["wrong"].append(f"{name}: {seconds:.1f} s")
    return report


if __name__ == "__main__":
    print(json.dumps(examine(files_of(sys.argv[1]) if len(sys.argv) > 1 else mutations(COUNT))))
