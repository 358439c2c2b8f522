"""Random descriptors, and galleries of them, that several tests share."""

import pathlib

import numpy as np

from vitjax.retrieval import Descriptors, Gallery


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
