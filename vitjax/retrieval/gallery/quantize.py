"""Descriptors as a gallery stores them: float16 tokens, int8 with one scale per token, or codes."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct

from vitjax.retrieval.descriptors import Descriptors, refuse_rows
from vitjax.retrieval.gallery.codecs import Codec

POOLED_DTYPES = ("float32", "float16", "int8")
MATCHED = ("pooled", "tokens", "scale", "weights", "valid", "positions")
ROW_ARRAYS = (*MATCHED, "owner")  # the last is for images only
_SMALL = np.float32(1e-6)  # below the largest number of any vector of length 1
_LENGTH_ERROR = 2e-3  # a vector whose squared length is off by more was never normalised


@struct.dataclass
class Stored:
    """Arrays of n images as they lie on the disk; `decode` makes descriptors of them.

    Attributes:
        pooled: (n, d) float32 or float16, or int8: what is read has length 1.
        tokens: (n, t, d) float16, or int8 where `scale` is there; or (n, t, bytes) uint8, codes.
        scale: (n, t) float32, one over the length of the int8 vector; None for float16.
        weights: (n, t) float32; with codes uint8, in units of a 255th of the largest.
        valid: (n, t) bool.
        positions: (n, t) int32, with codes int16; None where token i lies on patch i.
        owner: (n, cells) int32; None where nothing was dropped or merged, with codes, or where it was not
            read.
    """

    pooled: Any
    tokens: Any
    scale: Any
    weights: Any
    valid: Any
    positions: Any = None
    owner: Any = None

    def take(self, rows: Any) -> "Stored":
        """Returns some rows."""
        return jax.tree.map(lambda x: x[rows], self)


def stored_name(field: str) -> str:
    """Name on the disk of a field of `Stored`; of `positions` it is the one of the first galleries."""
    return "places" if field == "positions" else field


def check(found: Descriptors) -> None:
    """Raises ValueError for descriptors on the host that break their own promises, each row named."""
    refuse_rows("weights that are not finite", np.all(np.isfinite(found.weights), axis=1))
    refuse_rows("weights below zero", np.all(found.weights >= 0, axis=1))
    pooled = np.einsum("nd,nd->n", found.pooled, found.pooled)
    tokens = np.where(found.valid, np.einsum("ntd,ntd->nt", found.tokens, found.tokens), 0)
    squares = np.concatenate([pooled[:, None], tokens], axis=1)
    refuse_rows("values that are not finite", np.all(np.isfinite(squares), axis=1))
    unit = (np.abs(squares - 1) < _LENGTH_ERROR) | (squares == 0)
    refuse_rows("vectors not of length 1 (see Descriptors.from_arrays)", np.all(unit, axis=1))


def encode(found: Descriptors, dtype: str, pooled_dtype: str, codec: Codec | None = None) -> Stored:
    """Rounds descriptors on the host to what is stored; tokens that only pad become zero.

    int8: a token is scaled so that its largest number is 127, rounded, and stored with one over the length
    of the rounded vector, so that what is read has length 1 again.

    Args:
        found: checked descriptors.
        dtype: of the tokens, one of `config.INDEX_DTYPES`; not looked at with a codec.
        pooled_dtype: of the pooled vectors, one of `POOLED_DTYPES`.
        codec: of the tokens; the rest of an image is then small as well.
    """
    if codec is not None:
        return _encode_small(found, pooled_dtype, codec)
    tokens, scale = np.asarray(found.tokens, np.float32), None
    if not found.valid.all():
        tokens = np.where(found.valid[:, :, None], tokens, 0)
    if dtype == "int8":
        largest = np.abs(tokens).max(axis=2, keepdims=True)
        tokens = np.rint(tokens * (127 / np.maximum(largest, _SMALL)))
        length = np.sqrt(np.einsum("ntd,ntd->nt", tokens, tokens))
        scale = np.divide(1, length, out=np.zeros_like(length), where=length > 0)
    return Stored(
        pooled=_rounded_pooled(found.pooled, pooled_dtype),
        tokens=tokens.astype(dtype),
        scale=scale,
        weights=np.where(found.valid, found.weights, 0).astype(np.float32),
        valid=np.asarray(found.valid, bool),
        positions=found.positions,
        owner=found.owner,
    )


def _encode_small(found: Descriptors, pooled_dtype: str, codec: Codec) -> Stored:
    """Codes, and weights of one byte; which token stands for each patch is left to `positions`."""
    weights = np.where(found.valid, found.weights, 0)
    share = weights / np.maximum(weights.max(axis=1, keepdims=True), 1e-30)
    # A token that weighs anything weighs at least one unit.
    weights = np.where(weights > 0, np.maximum(np.rint(255 * share), 1), 0).astype(np.uint8)
    valid = np.asarray(found.valid, bool)
    return Stored(
        pooled=_rounded_pooled(found.pooled, pooled_dtype),
        tokens=np.where(valid[..., None], codec.encode(found.tokens), np.uint8(0)),
        scale=None,
        weights=weights,
        valid=valid,
        positions=None if found.positions is None else np.asarray(found.positions, np.int16),
    )


def _rounded_pooled(pooled: np.ndarray, dtype: str) -> np.ndarray:
    if dtype != "int8":
        return np.asarray(pooled, dtype)
    largest = np.abs(pooled).max(axis=1, keepdims=True)
    return np.rint(pooled * (127 / np.maximum(largest, _SMALL))).astype(np.int8)


def decode_pooled(pooled: Any) -> Any:
    """Pooled vectors as they are compared, float32; int8 ones get their length of 1 again."""
    xp = jnp if isinstance(pooled, jax.Array) else np
    found = pooled.astype(xp.float32)
    if pooled.dtype != np.int8:
        return found
    return found / xp.maximum(xp.sqrt((found * found).sum(-1, keepdims=True)), _SMALL)


def decode(stored: Stored, codec: Codec | None = None) -> Descriptors:
    """Descriptors of stored arrays, on the host or, under jit, on the device; float32."""
    xp = jnp if isinstance(stored.tokens, jax.Array) else np
    weights, positions = stored.weights, stored.positions
    if codec is None:
        tokens = stored.tokens.astype(xp.float32)
    else:
        tokens = xp.where(stored.valid[..., None], codec.decode(stored.tokens), xp.float32(0))
        weights = weights.astype(xp.float32)
        weights = weights / xp.maximum(weights.sum(-1, keepdims=True), 1)
        positions = None if positions is None else positions.astype(xp.int32)
    if stored.scale is not None:
        tokens = tokens * stored.scale[..., None]
    return Descriptors(
        pooled=decode_pooled(stored.pooled),
        tokens=tokens,
        weights=weights,
        valid=stored.valid,
        positions=positions,
        owner=stored.owner,
    )
