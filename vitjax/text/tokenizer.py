"""Tokenizers of two-tower models: texts to the ids that a text tower expects, and back to words."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int

from vitjax.errors import UserError
from vitjax.pretrained import MODELS, TextSpec
from vitjax.text.cleaning import CLEAN
from vitjax.text.vocabulary import Vocabulary, read_vocabulary

_BEGINS = "\u2581"  # sentencepiece's mark of a word's begin


class Word(NamedTuple):
    """A word of a text, and which tokens of the encoded text it is: from `start` up to `stop`."""

    text: str
    start: int
    stop: int


@dataclass(frozen=True, eq=False)
class Tokenizer:
    """Texts to ids, with which of them are real: a padding id may be an end id too.

    A text that says "<|endoftext|>" is text: only the tokenizer adds start and end. Different from the
    reference codes, which take such a text for the token.

    Attributes:
        vocabulary: pieces of text and their ids.
        spec: cleaning, start, end and padding.
        length: ids of one text, padding included.
    """

    vocabulary: Vocabulary
    spec: TextSpec
    length: int

    def __post_init__(self) -> None:
        if self.length < 1 + self.spec.start + self.spec.end:
            raise UserError(f"tokenizer: a text of {self.length} ids has no room for a word; give at least 3")
        for wanted, found, name in (
            (self.spec.start, self.vocabulary.start, "start"),
            (self.spec.end or self.spec.pad == "end", self.vocabulary.end, "end"),
        ):
            if wanted and found is None:
                raise UserError(f"tokenizer: its vocabulary has no {name} token, which the model expects")

    def __call__(
        self, texts: Sequence[str]
    ) -> tuple[Int[np.ndarray, "n length"], Bool[np.ndarray, "n length"]]:
        """Encodes texts; what is too long is cut, and keeps its end token.

        Args:
            texts: one or more.

        Returns:
            ids (n, length) int32; and (n, length), True for start, text and end, False for padding.

        Raises:
            TypeError: one text alone, which is no list of its letters.
        """
        if isinstance(texts, str):
            raise TypeError("tokenizer: give a list of texts, [ ] around one")
        spec, known = self.spec, self.vocabulary
        clean = CLEAN["openai" if known.openai and spec.clean == "clip" else spec.clean]
        before = [known.start] if spec.start else []
        after = [known.end] if spec.end else []
        room = self.length - len(before) - len(after)
        ids = np.full((len(texts), self.length), known.end if spec.pad == "end" else spec.pad, np.int32)
        valid = np.zeros(ids.shape, bool)
        for row, found in enumerate(known.encode([clean(text) for text in texts])):
            line = [*before, *found[:room], *after]
            ids[row, : len(line)], valid[row, : len(line)] = line, True
        return ids, valid

    def words(self, ids: Int[np.ndarray, " length"], valid: Bool[np.ndarray, " length"]) -> list[Word]:
        """The words of one encoded text, without start and end, each with its tokens.

        Args:
            ids: a row that this tokenizer gave.
            valid: likewise.
        """
        known, count = self.vocabulary, int(valid.sum())
        first, last = int(self.spec.start), count - int(self.spec.end)
        pieces = [known.piece(int(i)) for i in ids[first:last]]
        if known.suffix:
            ends = [i + 1 for i, piece in enumerate(pieces) if piece.endswith(known.suffix)]
            cuts = [0, *ends]
        else:
            cuts = [i for i, piece in enumerate(pieces) if piece.startswith(_BEGINS)]
            cuts = [0, *(cut for cut in cuts if cut)]
        cuts = [*cuts, len(pieces)] if cuts[-1] < len(pieces) else cuts
        spans = [(first + a, first + b) for a, b in itertools.pairwise(cuts)]
        named = [Word(known.decode(ids[a:b].tolist()), a, b) for a, b in spans]
        return [word for word in named if word.text]


def load_tokenizer(source: str, model: str, *, length: int = 0) -> Tokenizer:
    """Reads the tokenizer of a model with a text tower.

    Args:
        source: its files, see `read_vocabulary`; empty = where they are published (`ModelCard.text`).
        model: name of the model, which decides length, cleaning, start, end and padding.
        length: ids of a text; 0 = as the model was trained.

    Raises:
        ValueError: a model without a text tower, or files that cannot be had or read.
    """
    card = MODELS.get(model)
    if card is None or card.text is None:
        has = [name for name, known in MODELS.items() if known.text]
        raise UserError(
            f"model {model!r} has no text tower that is known here; with one: {', '.join(has[:6]) or 'none'}"
            + (", ..." if has[6:] else "")
        )
    tower = card.fields.get("text", {})
    vocabulary = read_vocabulary(source or card.text.source)
    if vocabulary.size != (known := tower.get("vocab_size", 49408)):
        raise UserError(
            f"tokenizer {source or card.text.source!r} has {vocabulary.size} ids, model {model!r} knows "
            f"{known}; give the tokenizer of this model"
        )
    return Tokenizer(vocabulary, card.text, length or tower.get("context_length", 77))
