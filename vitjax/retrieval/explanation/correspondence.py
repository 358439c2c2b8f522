"""True correspondences of patches between two images, from a homography or a disparity map.

Positions are shares of what the model sees, 0 to 1 from left to right and from top to bottom, as in the boxes
of `vitjax.retrieval.explanation.matches`. `vitjax.data.Preprocess.placement` maps pixels of an image there.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Real

Grid = tuple[int, int]
Matrix = Real[np.ndarray, "3 3"]


class Correspondence(NamedTuple):
    """True correspondences of one pair of images, for the query's n patches in raster order.

    Attributes:
        position: (n, 2), where the patch lies in the candidate, (x, y) in its cells: the centre of the first
            cell is (.5, .5); NaN where it is not visible.
        visible: (n,), whether the candidate shows it.
        known: (n,), False where nobody measured; then `visible` is False and says nothing.
        grid: (h, w) of the candidate's patches.
    """

    position: Float[np.ndarray, "n 2"]
    visible: Bool[np.ndarray, " n"]
    known: Bool[np.ndarray, " n"]
    grid: Grid

    @property
    def cell(self) -> Int[np.ndarray, " n"]:
        """The candidate's patch, in raster order, that each patch lies on; -1 where it is not visible."""
        x, y = np.nan_to_num(self.position).astype(int).T
        return np.where(self.visible, y * self.grid[1] + x, -1)


def homography_correspondence(
    homography: Matrix,
    query_grid: Grid,
    candidate_grid: Grid | None = None,
    *,
    query_placement: Matrix | None = None,
    candidate_placement: Matrix | None = None,
) -> Correspondence:
    """Correspondence of two images of a plane, or of a camera that only rotates, at patch centres.

    A patch is visible where its centre lies inside what the model sees of the candidate; that nothing stands
    in front is taken for granted. What lies beyond the horizon, seen from the middle of the query, is not
    visible.

    Args:
        homography: takes (x, y, 1) in the query to (x, y, w) in the candidate; any scale.
        query_grid: (h, w) of the query's patches.
        candidate_grid: of the candidate's; None: the same.
        query_placement: takes the homography's points, pixels mostly, to shares of what the model sees of
            the query; see `Preprocess.placement`. None: they are shares.
        candidate_placement: likewise.

    >>> move = np.array([[1, 0, 0.5], [0, 1, 0], [0, 0, 1]])
    >>> homography_correspondence(move, (1, 2)).cell.tolist()
    [1, -1]
    """
    to_query, to_candidate = (
        np.eye(3) if m is None else np.asarray(m, np.float64) for m in (query_placement, candidate_placement)
    )
    whole = to_candidate @ np.asarray(homography, np.float64) @ np.linalg.inv(to_query)
    mapped = np.append(_centres(query_grid), np.ones((query_grid[0] * query_grid[1], 1)), axis=1) @ whole.T
    depth = mapped[:, 2] * np.sign(whole[2] @ [0.5, 0.5, 1.0])
    ahead = depth > 1e-12 * np.abs(whole[2]).max()
    shares = np.full((len(mapped), 2), np.nan)
    shares[ahead] = mapped[ahead, :2] / mapped[ahead, 2:]
    return _placed(shares, np.ones(len(shares), bool), candidate_grid or query_grid)


def disparity_correspondence(
    disparity: Real[np.ndarray, "h w"],
    query_grid: Grid,
    candidate_grid: Grid | None = None,
    *,
    query_placement: Matrix | None = None,
    candidate_placement: Matrix | None = None,
    slack: float = 1.0,
) -> Correspondence:
    """Correspondence of the left image of a rectified stereo pair (the query) and the right one.

    Pixel (x, y) of the left is (x - disparity, y) of the right, unless something nearer, of a larger
    disparity, comes to lie there, or it falls out of the image. A patch is known where half of its pixels
    have a disparity, and visible where half of those can be seen; then it lies where the middle one (median
    disparity) of the seen pixels has moved its centre, if the model sees that.

    Args:
        disparity: of the left image, pixels, not negative; NaN or infinite where unknown.
        query_grid: (h, w) of the left's patches.
        candidate_grid: of the right's; None: the same.
        query_placement: as in `homography_correspondence`, from pixels; None: the whole image is seen,
            squashed.
        candidate_placement: likewise.
        slack: how much nearer a thing must be to hide another, pixels.
    """
    height, width = disparity.shape
    whole = np.diag([1 / width, 1 / height, 1.0])
    to_query, to_candidate = (whole if m is None else m for m in (query_placement, candidate_placement))
    known = np.isfinite(disparity)
    seen = known & ~_hidden(np.where(known, disparity, -1.0), slack)
    rows, columns = np.mgrid[:height, :width] + 0.5
    shares = _apply(to_query, np.stack([columns.ravel(), rows.ravel()], axis=1))
    x, y = np.floor(shares * query_grid[::-1]).astype(int).T
    inside = (x >= 0) & (x < query_grid[1]) & (y >= 0) & (y < query_grid[0])
    patch = np.where(inside, y * query_grid[1] + x, -1).reshape(disparity.shape)

    count = query_grid[0] * query_grid[1]
    centres = _apply(np.linalg.inv(to_query), _centres(query_grid))
    measured = np.zeros(count, bool)
    for i in range(count):
        own = patch == i
        measured[i] = 2 * known[own].sum() >= max(own.sum(), 1)
        visible = 2 * seen[own].sum() >= max(known[own].sum(), 1)
        centres[i, 0] -= np.median(disparity[own & seen]) if visible else np.nan
    return _placed(_apply(to_candidate, centres), measured, candidate_grid or query_grid)


def _hidden(disparity: Float[np.ndarray, "h w"], slack: float) -> Bool[np.ndarray, "h w"]:
    """Left pixels that the right image does not show: outside it, or behind something nearer."""
    height, width = disparity.shape
    target = np.rint(np.arange(width)[None, :] - disparity).astype(int)
    row = np.broadcast_to(np.arange(height)[:, None], disparity.shape)
    inside = (target >= 0) & (target < width) & (disparity >= 0)
    nearest = np.full(disparity.shape, -np.inf)
    np.maximum.at(nearest, (row[inside], target[inside]), disparity[inside])
    # A slanted surface is stretched: its neighbours cover the pixels between theirs.
    padded = np.pad(nearest, ((0, 0), (1, 1)), constant_values=-np.inf)
    covered = np.maximum(nearest, np.minimum(padded[:, :-2], padded[:, 2:]))
    return ~inside | (covered[row, np.clip(target, 0, width - 1)] > disparity + slack)


def _centres(grid: Grid) -> Float[np.ndarray, "n 2"]:
    """Centres of the patches in raster order, (x, y) as shares."""
    rows, columns = np.mgrid[: grid[0], : grid[1]]
    return np.stack([(columns.ravel() + 0.5) / grid[1], (rows.ravel() + 0.5) / grid[0]], axis=1)


def _apply(matrix: Matrix, points: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "n 2"]:
    mapped = np.append(points, np.ones((len(points), 1)), axis=1) @ np.asarray(matrix, np.float64).T
    return mapped[:, :2] / mapped[:, 2:]


def _placed(shares: Float[np.ndarray, "n 2"], known: Bool[np.ndarray, " n"], grid: Grid) -> Correspondence:
    """Positions in cells; NaN shares, or those outside 0 to 1, are not visible."""
    visible = known & (shares >= 0).all(axis=1) & (shares < 1).all(axis=1)
    position = np.where(visible[:, None], shares * np.array(grid[::-1], float), np.nan)
    return Correspondence(position, visible, known, grid)
