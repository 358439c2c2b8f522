"""The demo's images: photos that come with scikit-image and scikit-learn, seen from known camera poses.

Nothing is downloaded: the photos lie inside the two wheels. Each is cut into disjoint regions, and every
region is a scene, a flat thing photographed from several poses. Regions of one photo look alike as a whole
(the same colours, the same texture) and differ in their parts: patches can tell them apart where pooled
vectors cannot.

Left out of the wheels' images: drawings, diagrams and colour charts (chessboard, color, horse, logo,
phantom), photos with nothing sharp to match (cell, clock_motion), and those too small to be seen from nearby
(microaneurysms, page, text).
"""

import functools
import importlib.util
import math
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float64
from PIL import Image, ImageFilter

from vitjax.data.images import read_image
from vitjax.errors import UserError

SIDE = 320  # pixels: a view is square

# photo: (package, file in it, part of the photo in use (left, top, right, bottom), regions across and down,
# which of them, in reading order from 1, are queried; the others are only there to be mistaken: they repeat
# their neighbours' texture, or show next to nothing
PHOTOS: dict[str, tuple[str, str, tuple[int, int, int, int], tuple[int, int], tuple[int, ...]]] = {
    "astronaut": ("skimage", "data/astronaut.png", (0, 0, 512, 512), (2, 2), (1, 2, 3, 4)),
    "brick": ("skimage", "data/brick.png", (0, 0, 512, 512), (2, 2), (1, 4)),
    "camera": ("skimage", "data/camera.png", (0, 0, 512, 512), (2, 2), (1, 2, 3, 4)),
    "chelsea": ("skimage", "data/chelsea.png", (0, 0, 450, 300), (2, 1), (1, 2)),
    "china": ("sklearn", "datasets/images/china.jpg", (40, 27, 640, 427), (3, 2), (1, 2, 4, 5, 6)),
    "coffee": ("skimage", "data/coffee.png", (0, 0, 600, 400), (2, 2), (1, 2, 3, 4)),
    "coins": ("skimage", "data/coins.png", (0, 0, 384, 303), (2, 2), (1, 2, 3, 4)),
    "flower": ("sklearn", "datasets/images/flower.jpg", (150, 77, 530, 427), (2, 2), (1, 2, 3, 4)),
    "grass": ("skimage", "data/grass.png", (0, 0, 512, 512), (2, 2), (1, 2, 3)),
    "gravel": ("skimage", "data/gravel.png", (0, 0, 512, 512), (2, 2), (1, 2, 3)),
    "hubble": ("skimage", "data/hubble_deep_field.jpg", (0, 0, 1000, 872), (3, 3), (1, 2, 3, 4, 5, 6)),
    "ihc": ("skimage", "data/ihc.png", (0, 0, 512, 512), (2, 2), (1, 2, 3)),
    "moon": ("skimage", "data/moon.png", (0, 0, 512, 512), (2, 2), (1, 2, 4)),
    "retina": ("skimage", "data/retina.jpg", (205, 205, 1205, 1205), (3, 3), (1, 2, 3, 4, 5, 6, 7)),
    "rocket": ("skimage", "data/rocket.jpg", (0, 0, 640, 427), (3, 2), (1, 2, 3, 4, 5, 6)),
}
# A real change of camera pose, not a made one: the two photos of a stereo pair, one per split.
STEREO: dict[str, tuple[str, str]] = {
    "query": ("skimage", "data/motorcycle_left.png"),
    "gallery": ("skimage", "data/motorcycle_right.png"),
}
POSES: dict[str, tuple[int, ...]] = {"query": (0,), "gallery": (1, 2)}


@dataclass(frozen=True, slots=True)
class _View:
    scene: str
    photo: str
    box: tuple[float, float, float, float]  # of the region in the photo; pixels
    pose: int  # 0 = the query's


class SceneSource:
    """Views of the scenes: one of each queried scene in "query", two of every scene in "gallery".

    A view is a homography of its region (camera tilted and rolled, moved, zoomed; nothing beyond the region
    is seen), with its own light (gain, gamma, colour cast), blur and noise. Everything is drawn from fixed
    seeds with generators whose numbers never change, so the set is the same everywhere. The stereo pair is in
    it as it was taken: left as a query, right in the gallery.

    Args:
        split: "query" or "gallery". They share scenes and numbering, never a pose.

    Attributes:
        names: scene and pose, e.g. "china-3/pose-1".
        labels: scene of each view, an index into `class_names`.
        class_names: names of all scenes, the same in both splits.
        homographies: per view, 3x3, from the photo's pixels to the view's, both (x, y, 1) with pixel centres
            at .5; None for the stereo pair, which is not flat.

    Raises:
        ValueError: unknown split, or scikit-image or scikit-learn is not installed.
    """

    def __init__(self, split: str) -> None:
        if split not in POSES:
            raise UserError(f"scenes have no split {split!r}; there are 'query' and 'gallery'.")
        self._views: list[_View] = []
        scenes: list[str] = []
        for photo, (*_, queried) in PHOTOS.items():
            for number, box in enumerate(_regions(photo), start=1):
                scene = f"{photo}-{number}"
                scenes.append(scene)
                if split == "gallery" or number in queried:
                    self._views += [_View(scene, photo, box, pose) for pose in POSES[split]]
        self._stereo = _locate(*STEREO[split])
        self.class_names: list[str] = [*scenes, "motorcycle"]
        number = {name: i for i, name in enumerate(self.class_names)}
        self.labels: np.ndarray | None = np.array(
            [*(number[v.scene] for v in self._views), number["motorcycle"]], np.int32
        )
        self.names: list[str] = [f"{v.scene}/pose-{v.pose}" for v in self._views]
        self.names.append("motorcycle/" + Path(STEREO[split][1]).stem.split("_")[1])
        self.homographies: list[Float64[np.ndarray, "3 3"] | None] = [
            np.linalg.inv(_pose(v)) for v in self._views
        ]
        self.homographies.append(None)

    def __len__(self) -> int:
        return len(self.names)

    def read(self, i: int) -> Image.Image:
        """View i as 8-bit RGB."""
        if range(len(self))[i] == len(self._views):
            return read_image(self._stereo)
        return _render(self._views[i])

    def truth(self, i: int, j: int, other: "SceneSource | None" = None) -> Float64[np.ndarray, "3 3"] | None:
        """Homography from pixels of view i to those of view j of `other` (None = of this source).

        Returns:
            3x3, bottom right 1, for (x, y, 1) with pixel centres at .5; None for the stereo pair.

        Raises:
            ValueError: the views show different scenes, so there is none.
        """
        other = other or self
        if self.labels[i] != other.labels[j]:  # type: ignore[index]
            raise UserError(f"{self.names[i]!r} and {other.names[j]!r} show different scenes.")
        start, end = self.homographies[i], other.homographies[j]
        if start is None or end is None:
            return None
        whole = end @ np.linalg.inv(start)
        return whole / whole[2, 2]


def _locate(package: str, file: str) -> Path:
    """Path of a file inside an installed package, which is not imported."""
    spec = importlib.util.find_spec(package)
    folders = (spec.submodule_search_locations if spec else None) or [""]
    path = Path(folders[0]) / file
    if not path.is_file():
        raise UserError(
            "the demo's photos come with scikit-image and scikit-learn, and "
            f"{package}/{file} is not there; pip install scikit-image scikit-learn."
        )
    return path


@functools.cache
def _photo(name: str) -> Image.Image:
    return read_image(_locate(*PHOTOS[name][:2]))


def _regions(photo: str) -> list[tuple[float, float, float, float]]:
    """Boxes of equal size, row by row, that cover the part of the photo in use."""
    _, _, (left, top, right, bottom), (across, down), _ = PHOTOS[photo]
    width, height = (right - left) / across, (bottom - top) / down
    return [
        (left + c * width, top + r * height, left + (c + 1) * width, top + (r + 1) * height)
        for r in range(down)
        for c in range(across)
    ]


def _pose(view: _View) -> Float64[np.ndarray, "3 3"]:
    """Homography from the view's pixels to the photo's."""
    draw = random.Random(f"{view.scene} pose {view.pose}")
    roll = math.radians(draw.uniform(-25, 25))
    yaw, pitch = (math.radians(draw.uniform(-28, 28)) for _ in range(2))
    share = draw.uniform(0.7, 1.0)
    # The plane z = 0 turned about its centre and looked at from three half-sides away.
    turned = _turn(0, 1, roll) @ _turn(1, 2, pitch) @ _turn(0, 2, yaw)
    project = np.array([[*turned[0, :2], 0], [*turned[1, :2], 0], [*(turned[2, :2] / 3), 1]])
    to_unit = np.array([[2 / SIDE, 0, -1], [0, 2 / SIDE, -1], [0, 0, 1]])
    seen = _apply(project, np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]], np.float64))
    low, high = seen.min(axis=0), seen.max(axis=0)
    # As large as the region allows, times the share; then anywhere in the room that is left.
    left, top, right, bottom = view.box
    scale = share * min((right - left) / (high[0] - low[0]), (bottom - top) / (high[1] - low[1]))
    room = np.array([right - left, bottom - top]) - scale * (high - low)
    move = np.array([left, top]) + room * [draw.random(), draw.random()] - scale * low
    placement = np.array([[scale, 0, move[0]], [0, scale, move[1]], [0, 0, 1]])
    whole = placement @ project @ to_unit
    return whole / whole[2, 2]


def _turn(i: int, j: int, angle: float) -> Float64[np.ndarray, "3 3"]:
    matrix = np.eye(3)
    matrix[i, i] = matrix[j, j] = math.cos(angle)
    matrix[i, j], matrix[j, i] = -math.sin(angle), math.sin(angle)
    return matrix


def _apply(
    homography: Float64[np.ndarray, "3 3"], points: Float64[np.ndarray, "n 2"]
) -> Float64[np.ndarray, "n 2"]:
    mapped = np.concatenate([points, np.ones((len(points), 1))], axis=1) @ homography.T
    return mapped[:, :2] / mapped[:, 2:]


def _render(view: _View) -> Image.Image:
    """The view with its own light, blur and noise."""
    draw = random.Random(f"{view.scene} light {view.pose}")
    coefficients = _pose(view).ravel()[:8].tolist()
    image = _photo(view.photo).transform(
        (SIDE, SIDE), Image.Transform.PERSPECTIVE, coefficients, Image.Resampling.BICUBIC
    )
    gain, gamma = draw.uniform(0.75, 1.05), math.exp(draw.uniform(-0.3, 0.3))
    table = []
    for _ in range(3):
        cast = gain * draw.uniform(0.92, 1.08)
        table += [min(255, round(255 * cast * (value / 255) ** gamma)) for value in range(256)]
    image = image.point(table).filter(ImageFilter.GaussianBlur(draw.uniform(0, 1)))
    # Bytes of a bit generator, four summed: nearly normal, and the same in every version of numpy.
    deviation = draw.uniform(0, 6)
    raw = np.random.PCG64(draw.getrandbits(32)).random_raw(SIDE * SIDE * 3 // 2).view(np.uint8)
    noise = raw.reshape(SIDE, SIDE, 3, 4).sum(axis=3, dtype=np.int32) - 510
    pixels = np.asarray(image) + np.rint(noise * (deviation / 147.8)).astype(np.int32)
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
