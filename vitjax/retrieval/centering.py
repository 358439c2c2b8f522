"""What patch tokens of unrelated images have in common, above all their position, found and taken away.

Three ways: the mean token at each position is subtracted (`token_center`); the directions in which tokens of
images without content differ from position to position are projected out (`positional_subspace`), which
INSID3 found first; or both.
"""

import numpy as np
from jaxtyping import Array, Bool, Float

from vitjax.errors import UserError
from vitjax.retrieval.descriptors import unit_vectors

LEFT = 0.2  # share of the positional bias that `positional_subspace` may leave


def token_center(
    tokens: Float[Array | np.ndarray, "n t d"],
    kind: str,
    *,
    photos: bool = True,
    valid: Bool[Array | np.ndarray, "n t"] | None = None,
) -> Float[np.ndarray, "t d"]:
    """Mean token of unrelated images, to be subtracted from tokens before they are normalised.

    A plain transformer's patch tokens carry their position, so two tokens match because they have the same
    position. The average over images that share nothing else is that position, plus what all of them show.

    Args:
        tokens: of n images, not normalised.
        kind: "position": the mean at each position (positional bias); "mean": one mean for all positions.
        photos: whether the images look like those that will be compared. If not
            (`vitjax.data.sources.synthetic`), what all of them show is not what photos show, and only the
            differences between positions are kept.
        valid: False for tokens that are not there; None: all are.

    Returns:
        One vector per token, float32; `make_describe` takes it. For arrays of your own, subtract it from the
        tokens before `Descriptors.from_arrays`.

    Raises:
        ValueError: an unknown kind, or "mean" of images that are no photos.
    """
    if kind not in ("mean", "position"):
        raise UserError(f"token_center: kind {kind!r} is unknown; known: 'mean', 'position'")
    if kind == "mean" and not photos:
        raise UserError("token_center: the mean of synthetic images is not that of photos; use 'position'")
    there = np.ones(tokens.shape[:2]) if valid is None else np.asarray(valid, np.float64)
    seen = there.sum(axis=0)[:, None]
    average = np.einsum("nt,ntd->td", there, np.asarray(tokens, np.float64)) / np.maximum(seen, 1)
    whole = average.mean(axis=0, where=seen > 0, keepdims=True)
    average = np.where(seen > 0, average, whole)
    if kind == "mean":
        average = np.broadcast_to(whole, average.shape)
    return np.asarray(average if photos else average - whole, np.float32)


def positional_subspace(
    flat: Float[Array | np.ndarray, "n t d"],
    images: Float[Array | np.ndarray, "m t d"] | None = None,
    *,
    components: int = 0,
) -> Float[np.ndarray, "d k"]:
    """Directions in which tokens tell where they are: to be projected out before tokens are normalised.

    Source: INSID3 (CVPR 2026): the left singular vectors of the tokens of one content-free image, each
    normalised, minus their mean over the positions; its released code takes 500 of 1,024 directions for
    segmentation, 20 of 768 for key points. Different: how many is measured, and several flat images serve
    at once. Normalising before projecting as well, as there, changes nothing: lengths cancel.

    The number needs no labels: the smallest of 1, 2, 4, 8, .. with which the `positional_bias` of unrelated
    images is at most a fifth of what it is with none; where no number reaches that, the one that leaves
    least.

    Args:
        flat: tokens of content-free images, of one grey each for instance, not normalised; zeros stand for
            a token that is not there.
        images: tokens of unrelated images with content, at least two, on which the number is measured.
        components: how many directions; 0: as measured on `images`.

    Returns:
        Orthonormal columns, float32, the most positional direction first; the largest entry of each is
        positive. No column where tokens do not depend on their position.

    Raises:
        ValueError: neither `images` nor `components`, or fewer directions than `components`.
    """
    unit = unit_vectors(np.asarray(flat, np.float64))
    there = unit.any(axis=-1, keepdims=True)
    mean = unit.sum(axis=1, keepdims=True) / np.maximum(there.sum(axis=1, keepdims=True), 1)
    spread = np.where(there, unit - mean, 0).reshape(-1, unit.shape[-1])
    _, strength, rows = np.linalg.svd(spread, full_matrices=False)
    rank = int((strength > 1e-6 * max(strength.max(initial=0), 1.0)).sum())
    basis = signed(rows[:rank].T)
    if components > rank or (not components and images is None):
        raise UserError(
            f"positional_subspace: {components} components of {rank} directions; give images to measure the "
            "number on, or a number in that range"
        )
    if not components:
        components = _count(basis, np.asarray(images, np.float64))
    return np.asarray(basis[:, :components], np.float32)


def _count(basis: np.ndarray, tokens: np.ndarray) -> int:
    """How many directions leave little positional bias; see `positional_subspace`."""
    rank = basis.shape[1]
    tried = [0, *(1 << i for i in range(rank.bit_length()) if 1 << i < rank), rank]
    bias = [positional_bias(tokens - (tokens @ basis[:, :k]) @ basis[:, :k].T) for k in tried]
    enough = [k for k, left in zip(tried, bias, strict=True) if left <= LEFT * bias[0]]
    return enough[0] if enough else tried[int(np.argmin(bias))]


def positional_bias(tokens: Float[Array | np.ndarray, "n t d"]) -> float:
    """How much more alike tokens of two different images are at the same position than at two positions.

    Args:
        tokens: of unrelated images, at least two, with at least two positions; any length.

    Returns:
        Difference of the mean cosines over all pairs of images: 0 without positional bias, below 2.
    """
    unit = unit_vectors(np.asarray(tokens, np.float64))
    n, t, _ = unit.shape
    if n < 2 or t < 2:
        return 0.0
    position, image, whole = unit.sum(axis=0), unit.sum(axis=1), unit.sum(axis=(0, 1))
    own = (unit**2).sum()  # pairs of a token with itself, which are no pairs of images
    same = ((position**2).sum() - own) / (n * (n - 1) * t)
    every = ((whole**2).sum() - (image**2).sum()) / (n * (n - 1) * t * t)
    return float((same - every) * t / (t - 1))


def signed(basis: Float[np.ndarray, "d k"]) -> Float[np.ndarray, "d k"]:
    """Directions turned so that the largest entry of each column is positive."""
    largest = np.take_along_axis(basis, np.abs(basis).argmax(axis=0)[None], axis=0)
    return basis * np.where(largest < 0, -1, 1)
