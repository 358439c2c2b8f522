"""Writes tests/golden/augment_timm.npz: pixels and geometry of timm's training transforms.

Runs against timm 0.4.12 with torch 2.13.0 (its CPU build) and Pillow 13.0.0; nothing of these is part of this
repository:

    pip install torch==2.13.0 numpy pillow==13.0.0 && pip install --no-deps timm==0.4.12
    python tests/fixtures_scripts/make_timm_augment.py

Random numbers are recorded where timm draws them, in its order, so that another implementation can be given
the same ones.
"""

import importlib.util
import json
import pathlib
import random
import sys
import types

import numpy as np
import torch
from PIL import Image

GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
MAGNITUDES = (0.0, 3.3, 9.0, 10.0)
OPERATIONS = (  # of "rand-m9-mstd0.5-inc1", in our order
    "AutoContrast", "Equalize", "Invert", "Rotate", "PosterizeIncreasing", "SolarizeIncreasing",
    "SolarizeAdd", "ColorIncreasing", "ContrastIncreasing", "BrightnessIncreasing", "SharpnessIncreasing",
    "ShearX", "ShearY", "TranslateXRel", "TranslateYRel",
)  # fmt: skip


def load(name: str) -> types.ModuleType:
    """One module of timm.data, without the package, which imports torchvision."""
    folder = pathlib.Path(importlib.util.find_spec("timm").origin).parent / "data"
    spec = importlib.util.spec_from_file_location(f"timm_{name}", folder / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def photo(width: int, height: int) -> np.ndarray:
    """Gradients and a few edges, no two sides alike."""
    y, x = np.mgrid[:height, :width]
    pixels = np.stack([x * 9 + 10, y * 11 + 20, (x * y) % 200 + 30], axis=-1)
    pixels[3:7, 4:13] = (250, 5, 120)
    return pixels.clip(0, 255).astype(np.uint8)


class Recorded:
    """Stands in for the module `random`: what it draws is written down, with its bounds."""

    def __init__(self, seed: int) -> None:
        self.source, self.seen = random.Random(seed), []

    def random(self) -> float:
        return self.source.random()

    def uniform(self, low: float, high: float) -> float:
        return self._noted(self.source.uniform(low, high), low, high)

    def randint(self, low: int, high: int) -> int:
        return self._noted(self.source.randint(low, high), low, high)

    def _noted(self, value, low, high):
        self.seen.append((value, low, high))
        return value


def operations() -> dict[str, np.ndarray]:
    """Every change at every magnitude, with both signs where it has one."""
    module = load("auto_augment")
    assert set(OPERATIONS) == set(module._RAND_INCREASING_TRANSFORMS)
    pixels = photo(21, 17)
    settings = {"translate_const": 10, "img_mean": (124, 116, 104), "interpolation": Image.BICUBIC}
    found = {"inputs/picture": pixels}
    for name in OPERATIONS:
        for sign in (1, -1):
            module._randomly_negate = lambda value, sign=sign: sign * value
            for magnitude in MAGNITUDES:
                if (name, magnitude) == ("PosterizeIncreasing", 10.0):
                    continue  # 0 bits, which Pillow refuses by now
                change = module.AugmentOp(name, prob=1.0, magnitude=magnitude, hparams=settings)
                image = change(Image.fromarray(pixels))
                found[f"operations/{name}/{magnitude}/{sign}"] = np.asarray(image)
    return found


def erased(count: int = 40) -> dict[str, np.ndarray]:
    """Boxes of random erasing: (value, least, most) of area, log ratio, top and left of the try that fits."""
    module = load("random_erasing")
    draws, boxes = [], []
    for seed in range(count):
        module.random = Recorded(seed)
        image = module.RandomErasing(1.0, mode="pixel", device="cpu")(torch.zeros(3, 31, 23))
        rows, columns = (np.flatnonzero((image != 0).any(0).any(axis).numpy()) for axis in (1, 0))
        if len(rows):
            draws.append(module.random.seen[-4:])
            boxes.append([rows[0], columns[0], rows[-1] + 1, columns[-1] + 1])
    return {"inputs/erase": np.array(draws), "erase/boxes": np.array(boxes, np.int32)}


def cropped(count: int = 40) -> dict[str, np.ndarray]:
    """Boxes of RandomResizedCrop: the same of area, log ratio, top and left."""
    for name in ("", ".transforms", ".transforms.functional"):
        sys.modules["torchvision" + name] = types.ModuleType("torchvision" + name)
    module = load("transforms")
    draws, boxes = [], []
    for seed in range(count):
        module.random = Recorded(seed)
        change = module.RandomResizedCropAndInterpolation(8, scale=(0.08, 1.0))
        top, left, height, width = change.get_params(Image.new("RGB", (40, 33)), change.scale, change.ratio)
        draws.append(module.random.seen[-4:])
        boxes.append([left, top, left + width, top + height])
    return {"inputs/crop": np.array(draws), "crop/boxes": np.array(boxes, np.int32)}


def mixed() -> dict[str, np.ndarray]:
    """Mixup (0 to 3) and cutmix (4 to 7) of a batch of 6 with their labels, and what was drawn."""
    module = load("mixup")
    one_hot, cut = module.one_hot, module.cutmix_bbox_and_lam
    module.one_hot = lambda x, classes, on_value, off_value, device: one_hot(
        x, classes, on_value, off_value, "cpu"
    )
    images = np.random.default_rng(0).normal(size=(6, 9, 7, 3)).astype(np.float32)
    labels = np.array([0, 3, 1, 1, 2, 0], np.int32)
    found = {"inputs/mix_images": images, "inputs/mix_labels": labels}
    shares, boxes = [], []

    def noted(*arguments, **options):
        box, share = cut(*arguments, **options)
        boxes[-1] = box
        return box, share

    module.cutmix_bbox_and_lam = noted
    for number in range(8):
        alphas = (
            {"mixup_alpha": 0.8, "cutmix_alpha": 0.0}
            if number < 4
            else {"mixup_alpha": 0.0, "cutmix_alpha": 1.0}
        )
        change = module.Mixup(**alphas, label_smoothing=0.1, num_classes=4)
        np.random.seed(number)  # noqa: NPY002  (what timm draws from)
        shares.append(change._params_per_batch()[0])
        boxes.append((0, 0, 0, 0))
        np.random.seed(number)  # noqa: NPY002  (what timm draws from)
        pixels, soft = change(torch.tensor(images.transpose(0, 3, 1, 2).copy()), torch.tensor(labels).long())
        found[f"mix/{number}/images"] = pixels.numpy().transpose(0, 2, 3, 1)
        found[f"mix/{number}/labels"] = soft.numpy()
    return found | {"inputs/mix_shares": np.array(shares), "inputs/mix_boxes": np.array(boxes, np.int32)}


def main() -> None:
    meta = {"reference": "timm", "reference_version": "0.4.12", "pillow": Image.__version__}
    found = operations() | erased() | cropped() | mixed()
    np.savez_compressed(GOLDEN / "augment_timm.npz", **found, meta=np.array(json.dumps(meta)))


if __name__ == "__main__":
    main()
