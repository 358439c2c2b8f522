"""The price of an unmatched patch, estimated without labels from how well unrelated patches match."""

import dataclasses

import numpy as np

from vitjax import sharding
from vitjax.config import RerankConfig
from vitjax.errors import UserError
from vitjax.retrieval.descriptor_set import DescriptorSet

PAIRS = 256  # of images; with 49 tokens each, 12,544 best matches
QUANTILE = 0.95


def match_price(
    images: DescriptorSet,
    others: DescriptorSet | None = None,
    *,
    quantile: float = QUANTILE,
    pairs: int = PAIRS,
    seed: int = 0,
) -> float:
    """Price for `vitjax.ot.priced_match`: dearer matches are those that unrelated images have as well.

    The best match of each token of one image in an unrelated one has some similarity; a match is made
    if it beats this share, `quantile`, of them. Nothing but unrelated images is needed, so that they are
    unrelated matters. Tokens of the demo's model: photos of one set against another's give a price of .32 to
    .39, the images of `vitjax.data.sources.synthetic` .35 (leaves against clouds), but random pairs of a set
    of shop photos .20 and of one corridor .04. So `Reranker` asks synthetic images, which any model can be
    shown, or photos of yours; of a gallery of arrays there is nothing but pairs to
    ask.

    Args:
        images: descriptors, in memory or stored.
        others: images that have nothing to do with them; None: pairs are drawn among `images`.
        quantile: share of the best matches of unrelated tokens that cost more than the price, in (0, 1).
        pairs: of images that are drawn.
        seed: of the draw.

    Returns:
        In units of the cost, 1 - similarity; above 0, at most 2.

    Raises:
        ValueError: no pair can be drawn, or no token of any is valid and finite.
    """
    least = 2 if others is None else 1
    if len(images) < least or (others is not None and not len(others)):
        raise UserError(
            f"match_price: {len(images)} images are too few to draw unrelated pairs; "
            "give a price, or two images or more"
        )
    draw = np.random.default_rng(seed)
    ours = draw.integers(0, len(images), pairs)
    if others is None:
        theirs = (ours + draw.integers(1, len(images), pairs)) % len(images)
    else:
        theirs = draw.integers(0, len(others), pairs)
    one, two = _tokens(images, ours), _tokens(images if others is None else others, theirs)
    best = np.concatenate(
        [(x @ y.T).max(axis=1) for x, y in zip(one, two, strict=True) if len(x) and len(y)] or [[]]
    )
    if not best.size:
        raise UserError("match_price: no drawn pair has valid tokens on both sides; give a price")
    return float(np.clip(1.0 - np.quantile(best, quantile), 1e-3, 2.0))


def with_price(config: RerankConfig, gallery: DescriptorSet) -> RerankConfig:
    """The config with the price it needs: as given, or calibrated on random pairs of the gallery."""
    if config.mass not in ("auto", "mutual") or config.price > 0 or config.method != "transport":
        return config
    return dataclasses.replace(config, price=match_price(gallery))


def _tokens(images: DescriptorSet, rows: np.ndarray) -> list[np.ndarray]:
    """The valid, finite tokens of each of the rows; every image is read once."""
    unique, place = np.unique(rows, return_inverse=True)
    found = sharding.fetch(images.take(unique))
    good = found.valid & np.isfinite(found.tokens).all(axis=2)
    kept = [tokens[keep] for tokens, keep in zip(found.tokens, good, strict=True)]
    return [kept[i] for i in place]
