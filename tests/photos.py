"""Small images for tests: each class a colour pattern, each image of it shifted and tinted."""

import pathlib

import numpy as np
from PIL import Image


def image(kind: int, variant: int, side: int = 48) -> np.ndarray:
    """One uint8 image (side, side, 3); images of a kind resemble each other."""
    base = np.random.default_rng(kind).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    large = np.asarray(Image.fromarray(base).resize((side + 16, side + 16), Image.Resampling.BICUBIC))
    shift = 4 * variant % 16
    cut = large[shift : shift + side, shift : shift + side].astype(np.int16)
    return np.clip(cut + 6 * variant, 0, 255).astype(np.uint8)


def write_folder(folder: pathlib.Path, kinds: int = 4, variants: int = 3) -> pathlib.Path:
    """Writes `folder/class_k/v.png` and returns the folder."""
    for kind in range(kinds):
        (folder / f"class_{kind}").mkdir(parents=True)
        for variant in range(variants):
            Image.fromarray(image(kind, variant)).save(folder / f"class_{kind}" / f"{variant}.png")
    return folder
