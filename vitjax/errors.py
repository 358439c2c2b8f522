"""Errors by class: what the user can mend is a `UserError`, everything else keeps its traceback.

The programs print a `UserError` as one line and exit with 1; from Python it is a `ValueError`.
"""

from collections.abc import Sequence


class UserError(ValueError):
    """Something the user can mend: a value, a file or a setting. Its text says where, what and what to do.

    Args:
        text: the line.
        fields: of the program's config that decide it, as `optim.lr`; a program adds the flags that set them,
            so the text names none.
    """

    def __init__(self, text: object = "", *, fields: Sequence[str] = ()) -> None:
        super().__init__(text)
        self.fields: tuple[str, ...] = tuple(fields)


class UsageError(UserError):
    """A wrong flag or argument of a program."""


class ImageError(UserError):
    """An image that cannot be read, or that is refused."""


class WeightsError(UserError):
    """Weights that cannot be had, cannot be read, or do not fit the model."""


class EntryError(WeightsError):
    """A file of several sets of weights, of which none or more than one is meant."""


class GalleryError(UserError):
    """A gallery that is missing, damaged, locked, or described in another way."""


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged, or of another run."""
