"""Descriptors of images for retrieval: a pooled vector, patch tokens, and token weights."""

import math
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int

from vitjax import sharding
from vitjax.errors import UserError
from vitjax.ot import attention_rollout
from vitjax.retrieval import aggregate as aggregation
from vitjax.retrieval.candidate_blocks import CandidateBlock, resident_blocks
from vitjax.retrieval.first_stage.exact import search
from vitjax.sparsify import restore

TINY = 1e-12  # below this length a vector has no direction and stays as it is: zero


class Sizes(NamedTuple):
    """How large descriptors are: images, length of a pooled vector, tokens of an image, length of a token."""

    rows: int
    pooled: int
    tokens: int
    length: int


@struct.dataclass
class Descriptors:
    """Descriptors of n images with t patch tokens of length d: a pytree, on the host or on a device.

    Vectors are float32 and of length 1 (a vector of zeros stays zero). Rows that only pad a batch have
    `valid` False everywhere.

    Attributes:
        pooled: (n, d), one vector per image; its length may differ from the tokens'.
        tokens: (n, t, d), patch tokens in raster order.
        weights: (n, t), what each token weighs before matching, not negative; summing to 1 over an image's
            valid tokens, or all zero.
        valid: (n, t) bool, False for tokens that only pad.
        positions: (n, t) int32, which patch of the grid each token lies on, -1 for one that lies on none;
            None: token i on patch i. Only explanations look at it.
        owner: (n, cells) int32, which token stands for each patch of the model's grid, or of the coarser one
            on which tokens were aggregated; -1 where it was dropped. None: the model drops and merges none,
            or nobody kept it. Only images look at it.
    """

    pooled: Any
    tokens: Any
    weights: Any
    valid: Any
    positions: Any = None
    owner: Any = None

    # Written out only for the old name `places`, for one version.
    def __init__(
        self,
        pooled: Any,
        tokens: Any,
        weights: Any,
        valid: Any,
        positions: Any = None,
        owner: Any = None,
        *,
        places: Any = None,
    ) -> None:
        positions = positions if places is None else _by_old_name(places)
        given = {"pooled": pooled, "tokens": tokens, "weights": weights, "valid": valid}
        for name, value in (given | {"positions": positions, "owner": owner}).items():
            object.__setattr__(self, name, value)

    @property
    def places(self) -> Any:
        """The old name of `positions`, for one version."""
        return _by_old_name(self.positions)

    def __len__(self) -> int:
        return self.pooled.shape[0]

    @property
    def sizes(self) -> Sizes:
        """Number of images, and the lengths that two sets must share to be compared."""
        return Sizes(len(self), self.pooled.shape[1], *self.tokens.shape[1:])

    def take(self, rows: Any) -> "Descriptors":
        """Returns the descriptors at some rows."""
        return jax.tree.map(lambda x: x[rows], self)

    @property
    def in_memory(self) -> bool:
        """True; see `DescriptorSet`, whose methods follow."""
        return True

    def ids(self, rows: Any = None) -> list[Any]:
        """Numbers of some rows, in their order; None: of all. A row of -1 has None."""
        if rows is None or isinstance(rows, slice):
            return list(range(len(self)))[rows or slice(None)]
        return np.ma.masked_less(np.asarray(rows), 0).tolist()

    def read_pooled(self, rows: Any) -> Callable[[], tuple[np.ndarray, np.ndarray]]:
        """What gives the pooled vectors of some rows, and which of them have a valid token, on the host."""
        pooled, valid = sharding.fetch((self.pooled, self.valid))
        return lambda: (pooled[rows], valid[rows].any(axis=1))

    def search(
        self, queries: Any, k: int, *, exclude: Any = None, mesh: Mesh | None = None
    ) -> tuple[Float[np.ndarray, "q k"], Int[np.ndarray, "q k"]]:
        """The k nearest rows of each query, see `vitjax.retrieval.search`."""
        return search(queries, self, k, exclude=exclude, mesh=mesh)

    def on_devices(self, mesh: Mesh) -> "Descriptors":
        """All rows on every device, for many calls."""
        return sharding.replicate(self, mesh)

    def candidate_blocks(
        self, blocks: Int[np.ndarray, "p b k"], mesh: Mesh | None
    ) -> Iterator[CandidateBlock]:
        """Yields blocks of candidates; all rows are on every device once."""
        return resident_blocks(self, blocks, mesh)

    @classmethod
    def from_arrays(
        cls,
        pooled: Any,
        tokens: Any,
        weights: Any = None,
        valid: Any = None,
        positions: Any = None,
        *,
        places: Any = None,
    ) -> "Descriptors":
        """Makes descriptors of arrays of any model, on the host: checked, normalised, float32.

        Args:
            pooled: (n, d'), one vector per image, of any length.
            tokens: (n, t, d), patch tokens of any length.
            weights: (n, t), not negative; None: all valid tokens alike.
            valid: (n, t), True for real tokens; None: all.
            positions: (n, t), which patch of its grid each token lies on, -1 = none; None: token i on
                patch i.
            places: the old name of `positions`, for one version.

        Raises:
            ValueError: shapes that do not fit together, or rows with values that are not finite or weights
                below zero, each row named.
        """
        pooled, tokens = np.asarray(pooled, np.float32), np.asarray(tokens, np.float32)
        if pooled.ndim != 2 or tokens.ndim != 3 or len(pooled) != len(tokens) or 0 in tokens.shape[1:]:
            raise UserError(
                f"Descriptors: pooled has shape {pooled.shape} and tokens {tokens.shape}; "
                "expected (n, d) and (n, tokens, d) with the same n"
            )
        valid = np.ones(tokens.shape[:2], bool) if valid is None else np.asarray(valid, bool)
        weights = valid if weights is None else weights
        weights = np.asarray(weights, np.float32)
        positions = positions if places is None else _by_old_name(places)
        positions = None if positions is None else np.asarray(positions, np.int32)
        for name, x in (("weights", weights), ("valid", valid), ("positions", positions)):
            if x is not None and x.shape != tokens.shape[:2]:
                raise UserError(f"Descriptors: {name} has shape {x.shape}; expected {tokens.shape[:2]}")
        tokens = np.where(valid[:, :, None], tokens, 0)
        weights = np.where(valid, weights, 0)
        finite = [np.isfinite(x).all(axis=tuple(range(1, x.ndim))) for x in (pooled, tokens, weights)]
        refuse_rows("values that are not finite", np.logical_and.reduce(finite))
        refuse_rows("weights below zero", (weights >= 0).all(axis=1))
        # None is then too small to be summed.
        weights = weights / weights.max(axis=1, keepdims=True, initial=TINY**3)
        return cls(
            unit_vectors(_tamed(pooled)), unit_vectors(_tamed(tokens)), _share(weights), valid, positions
        )


def _by_old_name(positions: Any) -> Any:
    warnings.warn("Descriptors.places is positions now", DeprecationWarning, stacklevel=3)
    return positions


def refuse_rows(what: str, good: np.ndarray) -> None:
    """Raises ValueError that names the rows that are not good."""
    rows = np.flatnonzero(~good).tolist()
    if rows:
        named = ", ".join(map(str, rows[:10])) + (", ..." if len(rows) > 10 else "")
        raise UserError(f"Descriptors: {what} in {len(rows)} of {len(good)} rows: {named}")


def _tamed(x: np.ndarray) -> np.ndarray:
    """Vectors too long to be squared in float32, made shorter; the rest as they are."""
    largest = np.abs(x).max(axis=-1, keepdims=True, initial=0)
    return np.where(largest > 1e15, x / np.maximum(largest, 1), x)


def unit_vectors(x: Any) -> Any:
    """Vectors of length 1; those shorter than `TINY` have no direction. On the host, or on the device."""
    xp = jnp if isinstance(x, jax.Array) else np
    return x / xp.maximum(xp.sqrt(xp.sum(x * x, axis=-1, keepdims=True)), TINY)


def unit_parts(x: Any, parts: int) -> Any:
    """Vectors of several parts of one length, each made of length 1 and weighed alike: of length 1 together.

    The cosine of two such vectors is the mean of the cosines of their parts.
    """
    if parts == 1:
        return unit_vectors(x)
    each = unit_vectors(x.reshape(*x.shape[:-1], parts, -1))
    return each.reshape(x.shape) / math.sqrt(parts)


def _share(x: Any) -> Any:
    xp = jnp if isinstance(x, jax.Array) else np
    return x / xp.maximum(xp.sum(x, axis=-1, keepdims=True), TINY)


def pool_grid(
    tokens: Float[Array | np.ndarray, "b n d"], grid: tuple[int, int], size: int
) -> Float[Array, "b s d"]:
    """Average of the tokens in each cell of a size x size grid.

    Source: the definition of torch's `AdaptiveAvgPool2d`: cell i of s spans rows floor(i h / s) to
    ceil((i + 1) h / s), so cells overlap where s does not divide h. Two small matrix products instead of a
    loop over cells; float32.

    Args:
        tokens: patch tokens in raster order, n = h * w.
        grid: (h, w) of the tokens.
        size: side of the wanted grid, at least 1.

    Returns:
        tokens of the coarser grid in raster order, size * size of them.
    """
    x = _on_grid(tokens, grid, size).astype(jnp.float32)
    rows, columns = _cells(grid[0], size), _cells(grid[1], size)
    x = jnp.einsum(
        "sh,bhwd,tw->bstd",
        rows / rows.sum(1, keepdims=True),
        x,
        columns / columns.sum(1, keepdims=True),
        precision="highest",
    )
    return x.reshape(x.shape[0], size * size, x.shape[3])


def smooth_grid(
    tokens: Float[Array | np.ndarray, "b n d"], grid: tuple[int, int], size: int
) -> Float[Array, "b n d"]:
    """Average of each token and its neighbours, those of a size x size window that lie on the grid; float32.

    Args:
        tokens: patch tokens in raster order, n = h * w.
        grid: (h, w) of the tokens.
        size: side of the window, odd; 1 changes nothing.
    """
    x = _on_grid(tokens, grid, 1).astype(jnp.float32)
    rows, columns = (_near(length, size) for length in grid)
    x = jnp.einsum("sh,bhwd,tw->bstd", rows, x, columns, precision="highest")
    return x.reshape(tokens.shape)


def _near(length: int, size: int) -> np.ndarray:
    """Weights of the positions around each one; rows sum to 1."""
    position = np.arange(length)
    near = np.abs(position[:, None] - position[None, :]) <= size // 2
    return (near / near.sum(axis=1, keepdims=True)).astype(np.float32)


def pool_weights(
    weights: Float[Array | np.ndarray, "b n"], grid: tuple[int, int], size: int
) -> Float[Array, "b s"]:
    """Sum of the token weights in each cell of `pool_grid`; the total stays what it was.

    Args:
        weights: of the tokens in raster order, n = h * w; a token in several cells is shared out evenly.
        grid: (h, w) of the tokens.
        size: side of the wanted grid, at least 1.
    """
    x = _on_grid(weights[:, :, None], grid, size).astype(jnp.float32)[..., 0]
    rows, columns = _cells(grid[0], size), _cells(grid[1], size)
    x = jnp.einsum("sh,bhw,tw->bst", rows / rows.sum(0), x, columns / columns.sum(0), precision="highest")
    return x.reshape(x.shape[0], size * size)


def _on_grid(x: Any, grid: tuple[int, int], size: int) -> Array:
    if x.shape[1] != grid[0] * grid[1] or size < 1:
        raise UserError(
            f"pool_grid: {x.shape[1]} tokens on a {grid[0]}x{grid[1]} grid to size {size}; "
            "expected one token per cell (no pruned tokens) and a size of at least 1"
        )
    return jnp.asarray(x).reshape(x.shape[0], *grid, x.shape[2])


def _cells(length: int, size: int) -> np.ndarray:
    """1 where a position lies in a cell; (size, length)."""
    cell, position = np.arange(size)[:, None], np.arange(length)[None, :]
    inside = (position >= cell * length // size) & (position < -(-(cell + 1) * length // size))
    return inside.astype(np.float32)


def make_describe(
    forward: Callable[[Any, Array], Any],
    *,
    grid: int = 0,
    smooth: int = 1,
    rollout: bool = False,
    start: int = 0,
    keep: bool = False,
    weigh: Callable[[Array, Array], Array] | None = None,
    count: int = 0,
    aggregate: str = "kmeans",
    center: Float[np.ndarray, "t d"] | None = None,
    subspace: Float[np.ndarray, "d k"] | None = None,
    normalise: bool = True,
    parts: int = 1,
    mesh: Mesh | None = None,
) -> Callable[[Any, Any, Any], Descriptors]:
    """Builds the jitted `(variables, images, valid) -> Descriptors` of one batch size: one compilation.

    Tokens come as the model gives them, after its final norm; they are averaged to the coarser grid first
    and normalised after, as in the released code of "Beyond the CLS Token". Different: in between, `center`
    is subtracted and `subspace` projected out.

    A model that reduces its tokens gives those that are left, with their positions, where `grid` is 0; else
    they are put back on the grid first. A merged token weighs as much as its patches.

    Args:
        forward: `(variables, images) -> output` with `pooled` (b, d), `tokens` (b, n, d), `grid` (h, w) and,
            for rollout, `attention`, as `vitjax.models` returns them.
        grid: side of the token grid that is kept; 0 keeps all tokens.
        smooth: tokens are averaged over windows of this odd side first (`smooth_grid`); 1: they are not.
            For models that give a token for every patch.
        rollout: weigh tokens by attention rollout instead of alike.
        start: first block that counts for rollout.
        keep: weigh tokens by their score in the step that kept them (`BackboneOutput.kept_scores`) instead of
            alike. For models that rank tokens.
        weigh: `(tokens, valid) -> weights`, all with leading (b, n): weights of normalised tokens instead of
            alike, by what was learned; of `normalise` alone.
        center: subtracted from the tokens that are kept, see `token_center`; None: nothing is.
        subspace: orthonormal directions, projected out after that, see `positional_subspace`; None: nothing
            is.
        count: tokens that are left, by `vitjax.retrieval.aggregate`: averages of groups of alike tokens,
            after all of the above; each weighs as much as its patches. 0: nothing is averaged.
        aggregate: name of `vitjax.retrieval.aggregate.AGGREGATORS`; "attention" needs `attention` of the
            model.
        normalise: False leaves tokens and pooled vectors at their length, every token on its place, for
            `token_center`.
        parts: tokens are those of so many blocks side by side, each normalised on its own, with equal weight.
        mesh: cuts the batch over its devices (see `sharding.shard_batch`; variables replicated); None: one
            device.

    Returns:
        a function of variables, images (b, h, w, 3) as the model takes them, and valid (b,), False for rows
        that only pad the batch.
    """

    def describe(variables: Any, images: Any, valid: Array) -> Descriptors:
        output = forward(variables, images)
        if smooth > 1:
            output = _smoothed(output, smooth)
        weights = _worth(output) if keep else None
        if rollout:
            weights = attention_rollout(output.attention, start=start, grid=output.grid)
        if grid or count or not normalise:
            tokens, weights, there = _on_grid_of(output, weights, grid)
            positions, middle = None, center
        else:
            tokens, weights, there, positions = _as_they_are(output, weights)
            middle = None if center is None else _of_tokens(output, center)
        if middle is not None:
            tokens = tokens - (middle if middle.ndim == 3 else middle[None, :, :])
        if subspace is not None:
            tokens = _project_out(tokens, subspace)
        pooled, owner = output.pooled.astype(jnp.float32), _owner(output)
        if normalise:
            tokens, pooled = unit_parts(tokens, parts), unit_vectors(pooled)
            weights = weights if weigh is None else weigh(tokens, there)
        if count and normalise:
            importance = weights
            if aggregate == "attention":
                importance = attention_rollout(output.attention, start=start, grid=output.grid)
                importance = pool_weights(importance, output.grid, grid) if grid else importance
            weights = jnp.where(there, weights, 0.0)
            found = aggregation.aggregate(
                tokens, weights, there, count=count, name=aggregate, importance=importance
            )
            tokens, weights, there, positions, owner = found
        real = valid[:, None] & there
        weights = _share(jnp.where(real, weights, 0.0))
        return Descriptors(pooled, tokens, weights, real, positions, owner)

    if mesh is None:
        return jax.jit(describe)
    whole, rows = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, sharding.ROWS)
    return jax.jit(describe, in_shardings=(whole, rows, rows), out_shardings=rows)


def _smoothed(output: Any, size: int) -> Any:
    if _owner(output) is not None:
        raise UserError(
            f"make_describe: smooth is {size}, but the model reduces its tokens: neighbours are gone; use 1"
        )
    return output.replace(tokens=smooth_grid(output.tokens, output.grid, size))


def _worth(output: Any) -> Array:
    """Kept scores of the tokens on the cells of the grid they stand for; 0 where a token was dropped."""
    scores, owner = getattr(output, "kept_scores", None), _owner(output)
    if scores is None:
        raise UserError(
            "make_describe: keep, for marginals 'keep', needs a model that ranks its tokens: a dynamicvit_* "
            "one, or one with the reducer 'topk' or 'evit'"
        )
    if owner is None:  # no step was reached
        return scores
    return restore((scores / jnp.maximum(output.sizes, 1.0))[..., None], owner)[..., 0]


def _on_grid_of(output: Any, weights: Array | None, size: int) -> tuple[Array, Array, Array]:
    """Tokens, weights and which are there, one for each cell of the grid or of a coarser one of `size`.

    A merged token stands on each of its patches; a coarser cell averages the patches that are there.
    """
    tokens, grid = output.tokens.astype(jnp.float32), output.grid
    owner = _owner(output)
    there = jnp.ones(tokens.shape[:2], bool)
    if owner is not None:
        tokens, there = restore(tokens, owner), owner >= 0
    if weights is not None:
        weights = jnp.where(there, weights.astype(jnp.float32), 0.0)
    if size:
        tokens = pool_grid(tokens, grid, size)
        weights = None if weights is None else pool_weights(weights, grid, size)
        if owner is not None:
            share = pool_grid(there[..., None].astype(jnp.float32), grid, size)
            tokens, there = tokens / jnp.maximum(share, TINY), share[..., 0] > 0
        else:
            there = jnp.ones(tokens.shape[:2], bool)
    # Without rollout every pooled token weighs the same, however many it is the average of.
    return tokens, jnp.ones(tokens.shape[:2]) if weights is None else weights, there


def _as_they_are(output: Any, weights: Array | None) -> tuple[Array, Array, Array, Array | None]:
    """Tokens, weights, which are there, and their positions; merged tokens weigh as much as their patches."""
    tokens, owner = output.tokens.astype(jnp.float32), _owner(output)
    there = jnp.ones(tokens.shape[:2], bool)
    if owner is None:
        return tokens, jnp.ones(tokens.shape[:2]) if weights is None else weights, there, None
    cells, there = jnp.ones(owner.shape) if weights is None else weights, output.sizes > 0
    positions = output.keep_index[-1].astype(jnp.int32)
    positions = jnp.where(positions < owner.shape[1], positions, -1)
    return tokens, _per_token(cells[..., None], owner, tokens.shape[1])[..., 0], there, positions


def _project_out(tokens: Array, subspace: np.ndarray) -> Array:
    """Tokens without their part in a subspace."""
    part = jnp.matmul(tokens, subspace, precision="highest")
    return tokens - jnp.matmul(part, subspace.T, precision="highest")


def _of_tokens(output: Any, center: np.ndarray) -> Array:
    """What is to be subtracted from each token: the centre at its position, or the mean over its patches."""
    owner = _owner(output)
    if owner is None:
        return jnp.asarray(center)
    count = output.tokens.shape[1]
    patches = _per_token(jnp.ones((*owner.shape, 1)), owner, count)
    total = _per_token(jnp.broadcast_to(center[None], (len(owner), *center.shape)), owner, count)
    return total / jnp.maximum(patches, 1.0)


def _per_token(cells: Float[Array, "b cells d"], owner: Array, count: int) -> Float[Array, "b n d"]:
    """Sum over the patches that each token stands for."""
    total = jnp.zeros((len(owner), count, cells.shape[2]), jnp.float32)
    each = jnp.arange(len(owner))[:, None]
    return total.at[each, owner].add(cells, mode="drop", wrap_negative_indices=False)


def _owner(output: Any) -> Array | None:
    """Which token stands for each patch; None where each stands for its own."""
    owner = getattr(output, "owner", ())
    return owner[-1] if owner else None


def describe_each(
    describe: Callable[[Any, Any, Any], Descriptors],
    variables: Any,
    batches: Iterable[Any],
    *,
    mesh: Mesh | None = None,
) -> Iterator[tuple[Descriptors, np.ndarray]]:
    """Describes batch after batch; the next one is sent while the one before computes.

    Args:
        describe: from `make_describe`, with the same mesh.
        variables: of the model.
        batches: each with `images` (b, h, w, 3), `index` (b,) and `valid` (b,), all of one size. With
            several processes each passes its own images, the same number of batches in each.
        mesh: the one `describe` was made with.

    Yields:
        for each batch descriptors of its valid rows on the host, and which image of the source each row is.

    Raises:
        ValueError: rows whose descriptor is not finite, named by index.
    """
    pending = None
    if mesh is not None:
        variables = sharding.replicate(variables, mesh)
    for batch in batches:
        parts = (np.asarray(batch.images), np.asarray(batch.index), np.asarray(batch.valid))
        if mesh is not None:
            parts = sharding.shard_batch(sharding.pad_rows(parts, mesh.local_mesh.size), mesh)
        images, index, valid = parts
        before, pending = pending, (describe(variables, images, valid), index, valid)
        if before is not None:
            yield _real(*sharding.fetch(before))
    if pending is not None:
        yield _real(*sharding.fetch(pending))


def _real(found: Descriptors, index: np.ndarray, valid: np.ndarray) -> tuple[Descriptors, np.ndarray]:
    found, index = found.take(valid), index[valid]
    bad = ~(np.isfinite(found.pooled).all(axis=1) & np.isfinite(found.tokens).all(axis=(1, 2)))
    if bad.any():
        raise UserError(
            "describe_batches: the model gave values that are not finite for images "
            f"{index[bad][:10].tolist()}; check the weights, or compute in float32"
        )
    return found, index


class NothingToDescribe(UserError):
    """No batch had a valid row: no images, or none that could be read."""


def describe_batches(
    describe: Callable[[Any, Any, Any], Descriptors],
    variables: Any,
    batches: Iterable[Any],
    *,
    mesh: Mesh | None = None,
) -> tuple[Descriptors, np.ndarray]:
    """Describes all batches, see `describe_each`, into memory.

    Returns:
        descriptors of the valid rows on the host, in order of `index`, and that index (n,): which image of
        the source each row is; images that were skipped are missing from it.

    Raises:
        NothingToDescribe: no valid row at all.
        ValueError: rows whose descriptor is not finite, named by index.
    """
    done = list(describe_each(describe, variables, batches, mesh=mesh))
    if not sum(len(index) for _, index in done):
        raise NothingToDescribe("describe_batches: there is no image to describe")
    found, index = jax.tree.map(lambda *parts: np.concatenate(parts), *done)
    order = np.argsort(index, kind="stable")
    return found.take(order), index[order]
