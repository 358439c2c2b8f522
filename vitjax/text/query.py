"""A text query: its own type, so that a mistyped path never becomes a question."""

from dataclasses import dataclass

from vitjax.errors import UserError


@dataclass(frozen=True, slots=True)
class Text:
    """A text to search images by, where the model has a text tower; a plain string is a path.

    Args:
        text: what the images are to show.

    Raises:
        ValueError: it is empty.

    >>> str(Text("red dress with a round collar"))
    'red dress with a round collar'
    """

    text: str

    def __post_init__(self) -> None:
        if not isinstance(self.text, str) or not self.text.strip():
            raise UserError(f"Text: {self.text!r} says nothing; give some words")

    def __str__(self) -> str:
        return self.text
