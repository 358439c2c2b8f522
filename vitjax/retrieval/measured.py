"""What is measured of a model once, on images without labels, and then stays with its descriptors."""

import functools
import hashlib
import io
import zipfile
from dataclasses import dataclass
from typing import Any

import numpy as np

from vitjax.errors import UserError


@dataclass(frozen=True, eq=False)
class Measured:
    """Centre, subspace and price, as the descriptors of a gallery were made with them.

    Attributes:
        center: (t, d) float32, subtracted from tokens (`token_center`); None = nothing is.
        subspace: (d, k) float32, projected out of tokens (`positional_subspace`); None = nothing is.
        price: of unmatched mass (`match_price`), in units of the cost; 0 = not measured.
    """

    center: np.ndarray | None = None
    subspace: np.ndarray | None = None
    price: float = 0.0

    def __bool__(self) -> bool:
        """False where nothing was measured."""
        return self.price > 0 or self.center is not None or self.subspace is not None

    def same(self, other: "Measured") -> bool:
        """Whether all values are the same, to the last bit."""
        return self.digest == other.digest

    def to_bytes(self) -> bytes:
        """An .npz file; the same values are the same bytes."""
        arrays: dict[str, Any] = {"center": self.center, "subspace": self.subspace}
        arrays |= {"price": np.float64(self.price)}
        file = io.BytesIO()
        np.savez(file, **{name: x for name, x in arrays.items() if x is not None})
        return file.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> "Measured":
        """The values of such a file.

        Raises:
            ValueError: it is none.
        """
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
            return cls(arrays.get("center"), arrays.get("subspace"), float(arrays["price"]))
        except (ValueError, KeyError, TypeError, EOFError, OSError, zipfile.BadZipFile):
            raise UserError("these bytes are no measured values; measure them again") from None

    @functools.cached_property
    def digest(self) -> str:
        """Hash of the values."""
        return hashlib.sha256(self.to_bytes()).hexdigest()
