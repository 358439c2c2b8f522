"""Random descriptors that several tests share."""

import numpy as np

from vitjax.retrieval import Descriptors


def random_descriptors(n: int, tokens: int = 9, d: int = 16, seed: int = 0) -> Descriptors:
    rng = np.random.default_rng(seed)
    return Descriptors.from_arrays(
        rng.normal(size=(n, d)), rng.normal(size=(n, tokens, d)), weights=rng.random((n, tokens))
    )


def rankings(q: int, n: int, k: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.stack([rng.permutation(n)[:k] for _ in range(q)])
