"""Describes images into a gallery on a disk; an interrupted build resumes."""

import os
import warnings
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from vitjax import sharding
from vitjax.data.eval_loader import Skipped, nothing_read
from vitjax.data.images import ImageError
from vitjax.data.sources.base import ImageSource, ListSource, RowsSource, SourceTail, fingerprint
from vitjax.errors import UserError
from vitjax.reranker import ImageLike, Progress, Reranker
from vitjax.retrieval import Descriptors, Gallery, GalleryError
from vitjax.retrieval.gallery.build import Described, fill
from vitjax.retrieval.gallery.codecs import CODECS, Codec
from vitjax.retrieval.measured import Measured

LEARNED_ON = 256  # images, for a codec


def index_images(
    reranker: Reranker,
    images: ImageSource | Iterable[ImageLike],
    path: str | os.PathLike[str],
    *,
    dtype: str = "float16",
    bits: int = 128,
    batch_size: int = 32,
    on_bad_image: str = "error",
    progress: Progress | bool | None = None,
) -> tuple[Gallery, np.ndarray, list[Skipped]]:
    """Describes images into a gallery; what is there already is not described again.

    The gallery holds what it was made of: model, weights, preprocessing, and the images with their sizes
    and times of change; and the centre, subspace and price of its tokens, with which queries and later images
    are described. The same call after a kill resumes, and the files are those of an undisturbed build. A
    gallery made of anything else is refused and stays as it is. Memory does not grow with the number of
    images, apart from their names. With several processes each describes its share, and process 0 writes;
    all must see `path`.

    Args:
        reranker: model, weights and config.
        images: paths, PIL images, uint8 arrays (h, w, 3), bytes of image files, or a source of `vitjax.data`.
        path: a folder, gs://bucket/folder or s3://bucket/folder.
        dtype: of the stored tokens: float16, int8, or a name of `vitjax.retrieval.gallery.codecs.CODECS`,
            which is learned on the first images; pooled vectors are int8 then.
        bits: of the code of a token.
        batch_size: as for `Reranker.describe`.
        on_bad_image: "error" stops at the first unreadable image; "skip" leaves it out.
        progress: as for `Reranker.describe`, over the batches that are left.

    Returns:
        The gallery, whose ids are the images' names; which image each row is (n,); and the images left
        out with their reasons.

    Raises:
        ImageError: an image cannot be read and `on_bad_image` is "error".
        GalleryError: `path` holds something else, another program writes there, or no space is left.
        ValueError: there are no images, or none could be read.
        TypeError: `images` is one image and not several.
    """
    source = images if isinstance(images, ImageSource) else ListSource(images, what="index_images: images")
    if not len(source):
        raise UserError("index_images: there are no images; give at least one image.")
    new = sharding.from_main(int(not Gallery.exists(path)) if sharding.is_main_process() else 0)
    reranker = reranker if new else suited_to_stored(reranker, path)
    measured = reranker.measured if new else None
    codec = _learned(reranker, source, dtype, bits) if new and dtype in CODECS else None
    if sharding.is_main_process():
        try:
            stored = f"{dtype}, {bits} bits" if dtype in CODECS else dtype
            made_by = recipe(reranker, source) | {"stored": stored}
            gallery = _open_or_create(path, dtype, made_by, codec, measured)
            gallery.claim()
        except BaseException:
            sharding.from_main(-1)
            raise
        start = sharding.from_main(gallery.reached)
    else:
        gallery, start = None, sharding.from_main(0)
        if start < 0:
            raise GalleryError(f"gallery {os.fspath(path)}: process 0 cannot write it; its message says why")
    tail = SourceTail(source, start)
    each = reranker.describe_each(tail, batch_size=batch_size, on_bad_image=on_bad_image, progress=progress)
    if gallery is not None:
        with gallery:
            fill(gallery, _named(each, tail, start) if len(tail) else ())
    elif len(tail):
        for _ in each:  # its share of the work; process 0 receives what it finds
            pass
    sharding.wait_for_all("gallery built")
    gallery = Gallery.open(path)
    rows, skipped = _image_rows(gallery, source, reranker)
    if skipped and on_bad_image == "error":
        raise ImageError(skipped[0].reason)
    if not len(gallery):
        raise UserError(f"index_images: {nothing_read(skipped, len(source), 'images')}")
    return gallery, rows, skipped


def suited_to_stored(reranker: Reranker, path: str | os.PathLike[str]) -> Reranker:
    """The reranker with the centre and price that the gallery at `path` keeps; itself where there is none."""
    if not path or not Gallery.exists(path):
        return reranker
    return reranker.suited_to(Gallery.open(path), f"gallery {os.fspath(path)}")


def recipe(reranker: Reranker, source: ImageSource) -> dict[str, Any]:
    """Everything that decides the descriptors of some images, as plain data."""
    images = {"count": len(source), "names_sizes_and_times": fingerprint(source)}
    return reranker.recipe | {"images": images}


def _open_or_create(
    path: str | os.PathLike[str],
    dtype: str,
    made_by: dict[str, Any],
    codec: Codec | None,
    measured: Measured | None,
) -> Gallery:
    if Gallery.exists(path):
        return Gallery.open(path, recipe=made_by)
    pooled = "float32" if codec is None else "int8"
    return Gallery.create(
        path, dtype=dtype, pooled_dtype=pooled, recipe=made_by, codec=codec, measured=measured or None
    )


def _learned(reranker: Reranker, source: ImageSource, dtype: str, bits: int) -> Codec:
    """A codec of the tokens of the first images that can be read."""
    first = RowsSource(source, np.arange(min(len(source), LEARNED_ON)))
    found, *_ = reranker.describe(first, on_bad_image="skip")
    return CODECS[dtype](found.tokens[found.valid], bits)


def _named(
    each: Iterator[tuple[Descriptors, np.ndarray, int]], source: ImageSource, start: int
) -> Iterator[Described]:
    for found, index, gone in each:
        yield Described(found, [source.names[i] for i in index], start + gone)


def _image_rows(
    gallery: Gallery, source: ImageSource, reranker: Reranker
) -> tuple[np.ndarray, list[Skipped]]:
    """Which image each row is, and the images that have none, looked at again for the reason."""
    position = {name: i for i, name in enumerate(source.names)}
    rows = np.array([position[name] for name in gallery.ids()], np.int64)
    skipped = []
    for i in np.setdiff1d(np.arange(len(source)), rows).tolist():
        reason = f"{source.names[i]} could not be read when the gallery was built"
        try:
            reranker.preprocess(source.read(i))
        except ImageError as error:
            reason = str(error)
        skipped.append(Skipped(i, source.names[i], reason))
    return rows, skipped


def index_pictures(*arguments: Any, **options: Any) -> Any:
    """Deprecated name of `index_images`."""
    warnings.warn("index_pictures is index_images now", DeprecationWarning, stacklevel=2)
    return index_images(*arguments, **options)
