"""Random descriptors, and galleries of them, whole and damaged, that several tests share."""

import pathlib
import subprocess
import sys
import time
from collections.abc import Callable

import jax
import numpy as np

from vitjax.retrieval import Descriptors, Gallery, GalleryError, RerankConfig, rerank


def random_descriptors(n: int, tokens: int = 9, d: int = 16, seed: int = 0) -> Descriptors:
    rng = np.random.default_rng(seed)
    return Descriptors.from_arrays(
        rng.normal(size=(n, d)), rng.normal(size=(n, tokens, d)), weights=rng.random((n, tokens))
    )


def rankings(q: int, n: int, k: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(n)[:k] for _ in range(q)])


def filled_gallery(path, n=30, ids=True, d=16, **options) -> Gallery:
    gallery = Gallery.create(path, **options)
    gallery.add(random_descriptors(n, d=d), [f"shelf {i}/é.jpg" for i in range(n)] if ids else None)
    gallery.close()
    return gallery


def tree(path) -> dict[str, bytes]:
    return {str(p.relative_to(path)): p.read_bytes() for p in pathlib.Path(path).rglob("*") if p.is_file()}


def assert_same(one: Descriptors, two: Descriptors) -> None:
    for name in ("pooled", "tokens", "weights", "valid"):
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name), err_msg=name)


def damaged(data: bytes) -> dict[str, bytes | None]:
    """Ways a file can be broken; None = gone."""

    def flipped(i: int) -> bytes:
        return data[:i] + bytes([data[i] ^ 16]) + data[i + 1 :]

    where = [0, len(data) // 3, len(data) // 2, len(data) - 1]
    broken: dict[str, bytes | None] = {f"bit flipped in byte {i}": flipped(i) for i in where}
    return broken | {"half": data[: len(data) // 2], "one byte short": data[:-1], "empty": b"", "gone": None}


def everything(path) -> tuple[str, tuple[Descriptors, list] | None]:
    """What is said, or what is read."""
    try:
        gallery = Gallery.open(path)
        return "", (gallery.take(slice(None)), gallery.ids())
    except GalleryError as error:
        return str(error), None


BUILD = """
import sys
from tests.retrieval.cases import random_descriptors
from vitjax.retrieval import Gallery, GalleryError
found, path = random_descriptors(900), sys.argv[1]
try:
    gallery = Gallery.open(path)
except GalleryError:
    gallery = Gallery.create(path, dtype="int8")
print("ready", flush=True)
for start in range(len(gallery), 900, 20):
    rows = slice(start, start + 20)
    gallery.add(found.take(rows), [f"image {i}" for i in range(900)[rows]])
    print(len(gallery), flush=True)
gallery.close()
print("done", flush=True)
"""


def build(path, kill: tuple[int, float] | None = None) -> None:
    """Builds in another process; (commits, seconds): killed that long after so many."""
    command = [sys.executable, "-c", BUILD, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        if kill is None:
            assert process.communicate()[0].endswith("done\n")
            return
        for _ in range(kill[0] + 1):
            process.stdout.readline()
        time.sleep(kill[1])
        process.kill()


def doors(path) -> dict[str, object]:
    """What each way to read a gallery gives, or what it says; each opens it anew."""
    queries = random_descriptors(3, seed=9)

    def reranked(gallery: Gallery) -> list[np.ndarray]:
        rows = np.stack([np.arange(len(gallery))] * 3)
        found = rerank(queries, gallery, rows, config=RerankConfig(method="chamfer"))
        return [found.index, found.score]

    ways: dict[str, Callable[[Gallery], object]] = {
        "take": lambda gallery: jax.tree.leaves(gallery.take(slice(None))),
        "search": lambda gallery: list(gallery.search(queries, 5)),
        "rerank": reranked,
        "ids": lambda gallery: gallery.ids(),
        "some ids": lambda gallery: gallery.ids(np.arange(len(gallery))[::-1]),
    }
    found: dict[str, object] = {}
    for name, way in ways.items():
        try:
            found[name] = way(Gallery.open(path))
        except GalleryError as error:
            found[name] = str(error)
    return found
