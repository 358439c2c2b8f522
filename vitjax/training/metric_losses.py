"""Losses that bring images of a class together and others apart; embeddings have length 1."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from vitjax.errors import UserError
from vitjax.ranges import check


def margin_loss(
    rng: Array,
    embeddings: Float[Array, "b d"],
    labels: Int[Array, " b"],
    beta: Float[Array, " k"],
    *,
    margin: float = 0.2,
    cutoff: float = 0.5,
    largest: float = 1.4,
) -> Float[Array, ""]:
    """Margin loss with one negative per pair, drawn evenly over distances.

    Source: Wu et al. 2017, "Sampling Matters in Deep Embedding Learning" (arXiv:1706.07567), Eqs. 5 and 7:
    max(0, margin + D_ap - beta) + max(0, margin - D_an + beta), beta learned for each class, mean over the
    terms that are above 0. A negative at distance D is drawn with probability proportional to the inverse of
    D's density on the sphere; distances below `cutoff` count as `cutoff`, and above `largest` none is drawn,
    unless an anchor has no other. Every pair of a class is used, not one for each anchor.

    Args:
        rng: a key.
        embeddings: of length 1.
        labels: classes, indices into `beta`.
        beta: the boundary between near and far of each class.
        margin: half the gap, at least 0.
        cutoff: above 0 and at most 2, the largest distance there is.
        largest: at least 0.

    Raises:
        UserError: a number out of its range.
    """
    check("margin_loss", "margin", margin, 0)
    check("margin_loss", "cutoff", cutoff, 0, 2, above=True)
    check("margin_loss", "largest", largest, 0)
    distance = distances(embeddings)
    same, other = pairs(labels)
    negative = _draw_negatives(
        rng, jax.lax.stop_gradient(distance), other, embeddings.shape[1], cutoff, largest
    )
    bound = beta[labels][:, None]
    near = jax.nn.relu(margin + distance - bound)
    far = jax.nn.relu(margin - jnp.take_along_axis(distance, negative, axis=1) + bound)
    counts = same & other.any(axis=1)[:, None]
    near, far = jnp.where(counts, near, 0.0), jnp.where(counts, far, 0.0)
    active = (near > 0).sum() + (far > 0).sum()
    return (near.sum() + far.sum()) / jnp.maximum(active, 1)


def _draw_negatives(
    rng: Array,
    distance: Float[Array, "b b"],
    other: Bool[Array, "b b"],
    dimension: int,
    cutoff: float,
    largest: float,
) -> Int[Array, "b b"]:
    """For every pair of anchor (row) and column an image of another class."""
    near = jnp.maximum(distance, cutoff)
    density = (dimension - 2) * jnp.log(near) + (dimension - 3) / 2 * jnp.log(
        jnp.maximum(1 - near**2 / 4, 1e-8)
    )
    allowed = other & (distance < largest)
    allowed = jnp.where(allowed.any(axis=1, keepdims=True), allowed, other)
    logits = jnp.where(allowed, -density, -jnp.inf)
    logits = jnp.where(other.any(axis=1, keepdims=True), logits, 0.0)
    count = distance.shape[0]
    return jax.random.categorical(rng, logits[:, None, :], axis=-1, shape=(count, count))


def multi_similarity_loss(
    embeddings: Float[Array, "b d"],
    labels: Int[Array, " b"],
    *,
    alpha: float = 2.0,
    beta: float = 50.0,
    base: float = 0.5,
    epsilon: float = 0.1,
) -> Float[Array, ""]:
    """Multi-similarity loss with its own mining, mean over the batch.

    Source: Wang et al. 2019 (arXiv:1904.06627), Eqs. 10 to 12: of each anchor, negatives more alike than its
    least alike positive less `epsilon`, and positives less alike than its most alike negative plus `epsilon`.

    Args:
        embeddings: of length 1.
        labels: classes.
        alpha: scale of positives, above 0.
        beta: scale of negatives, above 0.
        base: similarity that both are measured from, in [-1, 1].
        epsilon: of the mining, in units of cosine.

    Raises:
        UserError: a number out of its range.
    """
    check("multi_similarity_loss", "alpha", alpha, 0, above=True)
    check("multi_similarity_loss", "beta", beta, 0, above=True)
    check("multi_similarity_loss", "base", base, -1, 1)
    check("multi_similarity_loss", "epsilon", epsilon)
    similarity = embeddings @ embeddings.T
    mined = jax.lax.stop_gradient(similarity)
    same, other = pairs(labels)
    hardest = jnp.where(other, mined, -jnp.inf).max(axis=1, keepdims=True)
    easiest = jnp.where(same, mined, jnp.inf).min(axis=1, keepdims=True)
    positive = same & (mined - epsilon < hardest)
    negative = other & (mined + epsilon > easiest)
    near = _log_one_plus_sum(-alpha * (similarity - base), positive) / alpha
    far = _log_one_plus_sum(beta * (similarity - base), negative) / beta
    return jnp.where(positive.any(axis=1) & negative.any(axis=1), near + far, 0.0).mean()


def proxy_anchor_loss(
    embeddings: Float[Array, "b d"],
    labels: Int[Array, " b"],
    proxies: Float[Array, "k d"],
    *,
    alpha: float = 32.0,
    margin: float = 0.1,
) -> Float[Array, ""]:
    """Proxy-anchor loss.

    Source: Kim et al. 2020 (arXiv:2003.13911), Eq. 4: mean over the classes of the batch of the pull, and
    over all classes of the push.

    Args:
        embeddings: of length 1.
        labels: classes, indices into `proxies`.
        proxies: one point for each class, of any length.
        alpha: scale, above 0.
        margin: in units of cosine, at least 0.

    Raises:
        UserError: a number out of its range.
    """
    check("proxy_anchor_loss", "alpha", alpha, 0, above=True)
    check("proxy_anchor_loss", "margin", margin, 0)
    similarity = embeddings @ normalise(proxies).T
    mine = jax.nn.one_hot(labels, len(proxies), dtype=jnp.bool_)
    pull = _log_one_plus_sum(-alpha * (similarity - margin).T, mine.T)
    push = _log_one_plus_sum(alpha * (similarity + margin).T, ~mine.T)
    return pull.sum() / jnp.maximum(mine.any(axis=0).sum(), 1) + push.mean()


def triplet_loss(
    embeddings: Float[Array, "b d"], labels: Int[Array, " b"], *, margin: float
) -> Float[Array, ""]:
    """max(0, margin + distance to the farthest of the class - distance to the nearest of another), mean.

    Source: Hermans et al. 2017 (arXiv:1703.07737), Eq. 5: the hardest pairs of a batch. Anchors that lack
    either do not count.

    Args:
        embeddings: of length 1.
        labels: classes.
        margin: in units of Euclidean distance, at least 0.

    Raises:
        UserError: a margin out of its range.
    """
    check("triplet_loss", "margin", margin, 0)
    distance = distances(embeddings)
    same, other = pairs(labels)
    # By index: the gradient of max divides by how many it finds, which inside a program may be none.
    near = _picked(distance, jnp.where(same, distance, -jnp.inf).argmax(axis=1))
    far = _picked(distance, jnp.where(other, distance, jnp.inf).argmin(axis=1))
    counts = same.any(axis=1) & other.any(axis=1)
    gap = jnp.where(counts, margin + jnp.where(counts, near, 0.0) - jnp.where(counts, far, 0.0), 0.0)
    return jax.nn.relu(gap).sum() / jnp.maximum(counts.sum(), 1)


def groups_loss(embeddings: Float[Array, "b d"], *, group: int, margin: float) -> Float[Array, ""]:
    """max(0, margin + distance to the positive - distance to a negative), mean over negatives and groups.

    Args:
        embeddings: of length 1; each `group` rows are an anchor, its positive, and its negatives.
        group: rows that belong together, at least 3; the number of embeddings is a multiple of it.
        margin: in units of Euclidean distance, at least 0.

    Raises:
        UserError: a number out of its range.
    """
    check("groups_loss", "margin", margin, 0)
    check("groups_loss", "group", group, 3)
    if len(embeddings) % group:
        raise UserError(
            f"groups_loss: {len(embeddings)} embeddings are no groups of {group}; give a multiple"
        )
    rows = embeddings.reshape(-1, group, embeddings.shape[1])
    anchor, positive, negatives = rows[:, :1], rows[:, 1:2], rows[:, 2:]

    def distance(other: Float[Array, "g n d"]) -> Float[Array, "g n"]:
        return jnp.sqrt(jnp.maximum(jnp.square(anchor - other).sum(axis=-1), 1e-8))

    gap = margin + distance(positive) - distance(negatives)
    return jax.nn.relu(gap).mean()


def normalise(vectors: Float[Array, "*lead d"]) -> Float[Array, "*lead d"]:
    """Vectors of length 1, in float32; zeros stay zeros, with a finite gradient."""
    vectors = vectors.astype(jnp.float32)
    return vectors * jax.lax.rsqrt(jnp.maximum(jnp.square(vectors).sum(axis=-1, keepdims=True), 1e-12))


def distances(embeddings: Float[Array, "b d"]) -> Float[Array, "b b"]:
    """Euclidean distances; the gradient of equal points is 0, not NaN."""
    squared = 2 - 2 * embeddings @ embeddings.T
    return jnp.sqrt(jnp.maximum(squared, 1e-8))


def pairs(labels: Int[Array, " b"]) -> tuple[Bool[Array, "b b"], Bool[Array, "b b"]]:
    """Pairs of one class, an image and itself left out; and pairs of two classes."""
    same = labels[:, None] == labels[None, :]
    return same & ~jnp.eye(len(labels), dtype=bool), ~same


def _picked(distance: Float[Array, "b b"], index: Int[Array, " b"]) -> Float[Array, " b"]:
    """Of each row the entry in one column."""
    return jnp.take_along_axis(distance, index[:, None], axis=1)[:, 0]


def _log_one_plus_sum(values: Float[Array, "b m"], counts: Bool[Array, "b m"]) -> Float[Array, " b"]:
    """log(1 + sum of exp) over the values that count."""
    values = jnp.where(counts, values, -jnp.inf)
    zero = jnp.zeros((len(values), 1), values.dtype)
    return jax.nn.logsumexp(jnp.concatenate([values, zero], axis=1), axis=1)
