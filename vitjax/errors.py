"""Errors by class: what the user can mend is a `UserError`, everything else keeps its traceback.

The programs print a `UserError` as one line and exit with 1; from Python it is a `ValueError`.
"""


class UserError(ValueError):
    """Something the user can mend: a value, a file or a setting. Its text says where, what and what to do."""


class UsageError(UserError):
    """A wrong flag or argument of a program."""


class ImageError(UserError):
    """An image that cannot be read, or that is refused."""


class WeightsError(UserError):
    """Weights that cannot be had, cannot be read, or do not fit the model."""


class EntryError(WeightsError):
    """A file of several sets of weights, of which none or more than one is meant.

    Attributes:
        field: of the config, that says which; empty = the one of the model's own weights.
    """

    field = ""


class GalleryError(UserError):
    """A gallery that is missing, damaged, locked, or described in another way."""


class CheckpointError(UserError):
    """A checkpoint that is missing, damaged, or of another run."""
