"""Token codes of a few bytes: signs of numbers, of learned directions (ITQ), and product quantisation.

A codec is learned once, without labels, from tokens of any images; then a token becomes `bytes` bytes, and
bytes become a vector of length 1 again. A gallery keeps its codec beside its codes. Queries keep full
precision, so that reranking compares exact tokens with decoded ones; `hamming` compares codes with codes.

`CODECS` maps `config.index.dtype` to how each is learned.
"""

import io
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int, UInt8

from vitjax.errors import UserError
from vitjax.retrieval.aggregate import lloyd
from vitjax.retrieval.centering import signed
from vitjax.retrieval.descriptors import unit_vectors
from vitjax.retrieval.gallery.storage import Location, read_whole, write_whole

FILE = "codec.npz"
ITQ_ITERATIONS = 50
_MOST = 2**14  # tokens that a codec is learned on
_KEPT = 256  # codewords of a part: a byte each


@struct.dataclass
class SignCodec:
    """One bit for each direction: on which side of the mean a token lies.

    Attributes:
        mean: (d,).
        directions: (d, bits), orthonormal columns; None: the axes, so as many bits as numbers.
        scale: mean distance from the mean along a direction, the length of a decoded step.
    """

    mean: Any
    directions: Any
    scale: Any

    @property
    def length(self) -> int:
        """Of the tokens."""
        return self.mean.shape[0]

    @property
    def bytes(self) -> int:
        """Of the code of a token."""
        return -(-(self.length if self.directions is None else self.directions.shape[1]) // 8)

    def encode(self, tokens: Float[np.ndarray, "*n d"]) -> UInt8[np.ndarray, "*n bytes"]:
        """Codes of tokens on the host; most significant bit first, as numpy.packbits has it."""
        x = np.asarray(tokens, np.float64) - self.mean
        return np.packbits(x >= 0 if self.directions is None else x @ self.directions >= 0, axis=-1)

    def decode(self, codes: Any) -> Any:
        """Vectors of length 1, float32; on the host or, under jit, on the device."""
        xp = jnp if isinstance(codes, jax.Array) else np
        bits = xp.unpackbits(codes, axis=-1).astype(xp.float32)
        count = self.length if self.directions is None else self.directions.shape[1]
        step = (2 * bits[..., :count] - 1) * self.scale
        if self.directions is not None:
            step = xp.matmul(step, self.directions.T)
        return unit_vectors(step + self.mean)


@struct.dataclass
class ProductCodec:
    """Product quantisation (Jegou et al. 2011): each part of a token is the nearest of its codewords.

    Attributes:
        codebooks: (parts, codewords, d / parts).
    """

    codebooks: Any

    @property
    def length(self) -> int:
        """Of the tokens."""
        return self.codebooks.shape[0] * self.codebooks.shape[2]

    @property
    def bytes(self) -> int:
        """Of the code of a token."""
        return self.codebooks.shape[0]

    def encode(self, tokens: Float[np.ndarray, "*n d"]) -> UInt8[np.ndarray, "*n parts"]:
        """Codes of tokens on the host: the first nearest codeword of each part."""
        parts, _, size = self.codebooks.shape
        flat = np.asarray(tokens, np.float64).reshape(-1, parts, size)
        found = np.empty(flat.shape[:2], np.uint8)
        for i, words in enumerate(np.asarray(self.codebooks, np.float64)):
            found[:, i] = ((words**2).sum(1) - 2 * flat[:, i] @ words.T).argmin(1)
        return found.reshape(*np.shape(tokens)[:-1], parts)

    def words(self, codes: Any) -> Any:
        """The codewords of codes, joined; their length is not 1."""
        found = self.codebooks[np.arange(self.bytes), codes]
        return found.reshape(*found.shape[:-2], self.length)

    def decode(self, codes: Any) -> Any:
        """Vectors of length 1, float32; on the host or, under jit, on the device."""
        return unit_vectors(self.words(codes))

    def table(self, queries: Float[Array | np.ndarray, "n d"]) -> Float[Array, "n parts codewords"]:
        """Inner products of the parts of exact tokens with all codewords."""
        parts, _, size = self.codebooks.shape
        return jnp.einsum(
            "nps,pks->npk", queries.reshape(-1, parts, size), self.codebooks, precision="highest"
        )

    def looked_up(
        self, table: Float[Array, "n parts codewords"], codes: UInt8[Array | np.ndarray, "m parts"]
    ) -> Float[Array, "n m"]:
        """Inner products of exact tokens with codes, summed from a table: nothing is decoded."""
        return table[:, np.arange(self.bytes), codes].sum(-1)


Codec = SignCodec | ProductCodec


def learn_sign(tokens: Float[np.ndarray, "n d"], bits: int = 0, *, seed: int = 0) -> SignCodec:
    """The plain sign of each number: the baseline, as many bits as numbers."""
    del bits, seed
    x = np.asarray(tokens, np.float32)
    return SignCodec(np.zeros(x.shape[1], np.float32), None, np.float32(np.abs(x).mean()))


def learn_itq(tokens: Float[np.ndarray, "n d"], bits: int = 128, *, seed: int = 0) -> SignCodec:
    """Iterative quantisation (Gong and Lazebnik 2011): principal directions, turned towards their signs."""
    drawn = _drawn(tokens, seed)
    mean, directions = principal(drawn, min(bits, tokens.shape[1]))
    projected = (drawn - mean) @ directions
    start = np.linalg.qr(np.random.default_rng(seed).normal(size=(projected.shape[1],) * 2))[0]
    rotation, _ = itq(projected, start, ITQ_ITERATIONS)
    scale = np.abs(projected @ rotation).mean()
    return SignCodec(*(np.asarray(x, np.float32) for x in (mean, directions @ rotation, scale)))


def learn_pq(tokens: Float[np.ndarray, "n d"], bits: int = 128, *, seed: int = 0) -> ProductCodec:
    """Codebooks by k-means of each part, begun with tokens drawn at random; 8 bits a part."""
    drawn, parts = _drawn(tokens, seed).astype(np.float32), max(bits // 8, 1)
    if drawn.shape[1] % parts:
        raise UserError(f"pq: {bits} bits are {parts} parts, which do not divide {drawn.shape[1]} numbers")
    split = drawn.reshape(len(drawn), parts, -1).swapaxes(0, 1)
    order = np.random.default_rng(seed).permutation(len(drawn))[:_KEPT]
    return ProductCodec(np.stack([_codebook(part, part[order]) for part in split]))


def _codebook(part: np.ndarray, start: np.ndarray) -> np.ndarray:
    group = np.asarray(lloyd(jnp.asarray(part), jnp.asarray(start), jnp.ones(len(part), bool)))
    member = np.eye(len(start), dtype=np.float32)[group]
    size = member.sum(0)[:, None]
    return np.where(size > 0, member.T @ part / np.maximum(size, 1), start)


CODECS: dict[str, Callable[..., Codec]] = {"sign": learn_sign, "itq": learn_itq, "pq": learn_pq}


def principal(tokens: np.ndarray, count: int) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "d k"]]:
    """Mean and first principal directions, float64; the largest entry of each is positive."""
    x = np.asarray(tokens, np.float64)
    mean = x.mean(axis=0)
    _, vectors = np.linalg.eigh((x - mean).T @ (x - mean))
    return mean, signed(vectors[:, ::-1][:, :count])


def itq(
    projected: Float[np.ndarray, "n k"], rotation: Float[np.ndarray, "k k"], iterations: int
) -> tuple[Float[np.ndarray, "k k"], list[float]]:
    """Turns vectors until they are near to their signs.

    Source: Gong and Lazebnik, CVPR 2011: with B = sign(v R) and v' B = A s C', R becomes A C'. The released
    code of AMES takes C' for C, which turns away from the signs.

    Returns:
        the rotation, and the squared distance to the signs before each iteration and after the last.
    """
    loss = []
    for i in range(iterations + 1):
        turned = projected @ rotation
        signs = np.where(turned >= 0, 1.0, -1.0)
        loss.append(float(((signs - turned) ** 2).sum()))
        if i < iterations:
            left, _, right = np.linalg.svd(projected.T @ signs)
            rotation = left @ right
    return rotation, loss


def hamming(
    one: UInt8[Array | np.ndarray, "n bytes"], two: UInt8[Array | np.ndarray, "m bytes"]
) -> Int[Array, "n m"]:
    """In how many bits two codes differ: packed words, compared and counted."""
    differ = jnp.bitwise_xor(jnp.asarray(one)[:, None], jnp.asarray(two)[None])
    return jax.lax.population_count(differ).astype(jnp.int32).sum(-1)


def cosine_of_hamming(distance: Any, bits: int) -> Any:
    """The cosine that a share of differing bits stands for where directions are random: cos(pi h / bits)."""
    return jnp.cos(jnp.pi * jnp.asarray(distance) / bits)


def write(place: Location, codec: Codec) -> str:
    """Writes a codec into a gallery, and returns its SHA-256."""
    file = io.BytesIO()
    arrays: dict[str, Any] = {name: np.asarray(x) for name, x in vars(codec).items() if x is not None}
    np.savez(file, **arrays)
    return write_whole(place, FILE, file.getvalue())


def read(place: Location, digest: str) -> Codec:
    """Reads the codec of a gallery; raises GalleryError where it is not the one that was written."""
    with np.load(io.BytesIO(read_whole(place, FILE, digest))) as file:
        parts = {name: file[name] for name in file.files}
    return ProductCodec(**parts) if "codebooks" in parts else SignCodec(**{"directions": None} | parts)


def _drawn(tokens: np.ndarray, seed: int) -> np.ndarray:
    """At most so many tokens, in float64."""
    x = np.asarray(tokens, np.float64)
    return x if len(x) <= _MOST else x[np.random.default_rng(seed).permutation(len(x))[:_MOST]]
