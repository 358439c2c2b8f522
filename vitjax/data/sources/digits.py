"""The handwritten digits that scikit-learn brings along: real data that needs no download."""

import numpy as np
from PIL import Image

from vitjax.errors import UserError

_HELD_OUT = 5  # every fifth image


class DigitsSource:
    """1,797 images of 8 x 8 pixels, ten classes; every fifth is held out.

    Source: Alpaydin and Kaynak 1998, Optical Recognition of Handwritten Digits, as scikit-learn ships it
    (`load_digits`): 17 levels of grey, spread over 0 to 255 here.

    Args:
        split: "train" (1,437 images) or "test" (360).

    Raises:
        ValueError: scikit-learn is not installed, or another split.
    """

    def __init__(self, split: str) -> None:
        try:
            from sklearn.datasets import load_digits
        except ImportError:
            raise UserError("the digits come with scikit-learn: pip install scikit-learn.") from None
        if split not in ("train", "test"):
            raise UserError(f"digits: split {split!r} is neither 'train' nor 'test'.")
        images, labels = (np.asarray(x) for x in load_digits(return_X_y=True))
        held_out = np.arange(len(images)) % _HELD_OUT == 0
        chosen = np.flatnonzero(held_out if split == "test" else ~held_out)
        self._pixels = np.rint(images[chosen].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
        self.labels: np.ndarray | None = labels[chosen].astype(np.int32)
        self.class_names: list[str] = [str(digit) for digit in range(10)]
        self.names: list[str] = [f"digit-{i:04d}" for i in chosen]

    def __len__(self) -> int:
        return len(self._pixels)

    def read(self, i: int) -> Image.Image:
        """Image i as 8-bit RGB."""
        return Image.fromarray(self._pixels[i]).convert("RGB")
