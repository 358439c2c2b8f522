"""Vocabulary files to an encoder: byte-pair encoding by `tokenizers`, unigrams by `sentencepiece`."""

import gzip
import pathlib
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from vitjax.errors import UserError
from vitjax.system.files import expanded, read_json
from vitjax.text.cleaning import required
from vitjax.weights.hub import fetch

_NAMES = ("tokenizer.json", "vocab.json", "spiece.model", "tokenizer.model", "bpe_simple_vocab_16e6.txt.gz")
_START = ("<|startoftext|>", "<start_of_text>", "<s>", "<bos>")
_END = ("<|endoftext|>", "<end_of_text>", "</s>", "<eos>")
_OPENAI_MERGES = 49152 - 256 - 2  # of the file that its code takes
# What CLIP splits a text into before it merges pairs: contractions, runs of letters, single digits, the rest.
_CLIP_WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Cleaned texts to ids and back.

    Attributes:
        encoder: a `tokenizers.Tokenizer` or a `sentencepiece.SentencePieceProcessor`.
        start: id of the start token; None where there is none.
        end: id of the end token; None where there is none.
        size: number of ids.
        openai: whether the file is OpenAI's own, whose code also mends texts.
        suffix: what ends a word; empty where a mark begins one.
    """

    encoder: Any
    start: int | None
    end: int | None
    size: int
    openai: bool = False
    suffix: str = ""

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without start and end."""
        if hasattr(self.encoder, "encode_batch"):
            return [found.ids for found in self.encoder.encode_batch(list(texts), add_special_tokens=False)]
        return self.encoder.encode(list(texts), out_type=int)

    def piece(self, number: int) -> str:
        """The piece of text of an id, with its mark of a word's begin or end."""
        find = getattr(self.encoder, "id_to_token", None) or self.encoder.id_to_piece
        return find(number) or ""

    def decode(self, ids: Sequence[int]) -> str:
        """The text of some ids."""
        text = self.encoder.decode(list(ids))
        return (text.replace(self.suffix, " ") if self.suffix else text).strip()


def read_vocabulary(source: str) -> Vocabulary:
    """Reads a vocabulary.

    Args:
        source: a file or a folder that holds one, or hf:org/repo (extra `hub`): tokenizer.json, vocab.json
            with merges.txt beside it, spiece.model or tokenizer.model, or OpenAI's
            bpe_simple_vocab_16e6.txt.gz.

    Raises:
        ValueError: no such file, one of another kind, a library that is not installed; one line says which.
    """
    path = _found(source)
    try:
        if path.suffix == ".model":
            return _sentencepiece(path)
        if path.suffix == ".gz":
            return _openai(path)
        return _tokenizer_json(path) if path.name != "vocab.json" else _pairs(path, _beside(source, path))
    except UserError:
        raise
    except (OSError, EOFError, zlib.error, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise UserError(f"tokenizer {str(path)!r} cannot be read ({_line(error)}); fetch it again") from None
    except Exception as error:  # `tokenizers` raises Exception itself
        if type(error) is not Exception:
            raise
        raise UserError(f"tokenizer {str(path)!r} cannot be read ({_line(error)}); fetch it again") from None


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__


def _found(source: str) -> pathlib.Path:
    if source.startswith("hf:"):
        return fetch(source, files=_NAMES)
    path = pathlib.Path(expanded(source)) if source else pathlib.Path()
    if source and path.is_dir():
        path = next((path / name for name in _NAMES if (path / name).is_file()), path)
    if not source or not path.is_file():
        raise UserError(
            f"tokenizer {source!r}: there is no such file, or no {', '.join(_NAMES[:-1])} or {_NAMES[-1]} in "
            "the folder; give the file, its folder, or hf:org/repo"
        )
    return path


def _beside(source: str, path: pathlib.Path) -> pathlib.Path:
    """The merges that belong to a vocab.json."""
    if source.startswith("hf:"):
        repo, at, revision = source.partition("@")
        repo = repo.removesuffix("/vocab.json")
        return fetch(f"{repo}/merges.txt{at}{revision}")
    return path.with_name("merges.txt")


def _tokenizer_json(path: pathlib.Path) -> Vocabulary:
    made = required("tokenizers").Tokenizer.from_file(str(path))
    made.no_padding()
    made.no_truncation()
    made.encode_special_tokens = True  # a text that says "</s>" ends nothing
    suffix = getattr(made.model, "end_of_word_suffix", None)
    return _named(made, suffix=suffix or "")


def _pairs(path: pathlib.Path, merges: pathlib.Path) -> Vocabulary:
    pairs = [line.split() for line in merges.read_text(encoding="utf-8").split("\n")]
    given = read_json(path)
    if not isinstance(given, dict):
        raise UserError(f"tokenizer {str(path)!r} is no dictionary of pieces; give CLIP's vocab.json")
    return _clip(given, [(pair[0], pair[1]) for pair in pairs if len(pair) == 2 and pair[0] != "#version:"])


def _openai(path: pathlib.Path) -> Vocabulary:
    """Pieces in the order of OpenAI's code: bytes, bytes that end a word, merged pairs, start and end."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        lines = file.read().split("\n")[1 : _OPENAI_MERGES + 1]
    pairs = [(first, second) for first, second in (line.split() for line in lines if line)]
    letters = list(byte_letters().values())
    pieces = [*letters, *(x + "</w>" for x in letters), *map("".join, pairs), _START[0], _END[0]]
    return _clip({piece: i for i, piece in enumerate(pieces)}, pairs, openai=True)


def _clip(pieces: dict[str, int], pairs: list[tuple[str, str]], *, openai: bool = False) -> Vocabulary:
    library = required("tokenizers")
    model = library.models.BPE(
        vocab=pieces, merges=pairs, continuing_subword_prefix="", end_of_word_suffix="</w>",
        unk_token=next((name for name in _END if name in pieces), None),
    )  # fmt: skip
    made, before = library.Tokenizer(model), library.pre_tokenizers
    words = before.Split(library.Regex(_CLIP_WORDS), behavior="removed", invert=True)
    made.pre_tokenizer = before.Sequence([words, before.ByteLevel(add_prefix_space=False, use_regex=False)])
    made.decoder = library.decoders.ByteLevel()
    return _named(made, openai=openai, suffix="</w>")


def _named(made: Any, **fields: Any) -> Vocabulary:
    """A vocabulary of `tokenizers` whose start and end are found by their usual names."""
    start, end = (
        next((found for name in names if (found := made.token_to_id(name)) is not None), None)
        for names in (_START, _END)
    )
    return Vocabulary(made, start, end, made.get_vocab_size(), **fields)


def _sentencepiece(path: pathlib.Path) -> Vocabulary:
    made = required("sentencepiece").SentencePieceProcessor(model_file=str(path))
    ids = [number if number >= 0 else None for number in (made.bos_id(), made.eos_id())]
    return Vocabulary(made, ids[0], ids[1], made.get_piece_size())


def byte_letters() -> dict[int, str]:
    """The letter that stands for each byte: itself where it can be printed, else one from 256 on.

    Source: openai/CLIP `simple_tokenizer.py`, the table of GPT-2; printable bytes come first.
    """
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {byte: chr(byte) for byte in shown} | {byte: chr(256 + i) for i, byte in enumerate(hidden)}
