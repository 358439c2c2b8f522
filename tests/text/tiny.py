"""Tiny vocabularies in every file format, of merges and words that the tests name."""

import gzip
import json
import pathlib

import pytest

from vitjax.text.vocabulary import byte_letters

MERGES = ["r e", "re d</w>", "c a", "ca t</w>", "d o", "o n", "e d</w>", "a n", "an d</w>", "d r"]
SENTENCES = [
    "a photo of a red cat with a round collar",
    "two dogs and a blue dress",
    "it is naïve to count 12 cats",
]


def libraries() -> None:
    """Skips where the extra is not installed."""
    for name in ("tokenizers", "sentencepiece", "ftfy"):
        pytest.importorskip(name, reason=f"tokenizers need {name}: pip install '.[text]'")


def pieces() -> list[str]:
    """The vocabulary of OpenAI's format with these merges: ids are positions."""
    letters = list(byte_letters().values())
    merged = [merge.replace(" ", "") for merge in MERGES]
    return [*letters, *(x + "</w>" for x in letters), *merged, "<|startoftext|>", "<|endoftext|>"]


def openai(folder: pathlib.Path) -> pathlib.Path:
    path = folder / "bpe_simple_vocab_16e6.txt.gz"
    with gzip.open(path, "wt", encoding="utf-8") as file:
        file.write("\n".join(['"version"', *MERGES, ""]))
    return path


def hugging_face(folder: pathlib.Path) -> pathlib.Path:
    """vocab.json and merges.txt."""
    (folder / "vocab.json").write_text(json.dumps({piece: i for i, piece in enumerate(pieces())}))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *MERGES, ""]))
    return folder


def tokenizer_json(folder: pathlib.Path) -> pathlib.Path:
    """A fast tokenizer as transformers saves one: it cleans, adds start and end, cuts and pads by itself."""
    import tokenizers as t

    vocabulary = {piece: i for i, piece in enumerate(pieces())}
    merges = [tuple(merge.split()) for merge in MERGES]
    made = t.Tokenizer(t.models.BPE(vocabulary, merges, end_of_word_suffix="</w>", unk_token="<|endoftext|>"))
    n, p = t.normalizers, t.pre_tokenizers
    made.normalizer = n.Sequence([n.NFC(), n.Replace(t.Regex(r"\s+"), " "), n.Lowercase()])
    words = t.Regex(r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    made.pre_tokenizer = p.Sequence([p.Split(words, "removed", invert=True), p.ByteLevel(False)])
    made.decoder = t.decoders.ByteLevel()
    start, end = "<|startoftext|>", "<|endoftext|>"
    made.post_processor = t.processors.RobertaProcessing(
        (end, vocabulary[end]), (start, vocabulary[start]), False, False
    )
    made.add_special_tokens([start, end])
    made.enable_padding(length=6)
    made.enable_truncation(6)
    made.save(str(folder / "tokenizer.json"))
    return folder


def sentencepiece(folder: pathlib.Path) -> pathlib.Path:
    """A unigram model with T5's ids: padding 0, end 1, unknown 2, no start."""
    import sentencepiece as spm

    (folder / "corpus.txt").write_text("\n".join(SENTENCES * 30))
    spm.SentencePieceTrainer.train(
        input=str(folder / "corpus.txt"), model_prefix=str(folder / "spiece"), vocab_size=60,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, character_coverage=1.0, minloglevel=3, num_threads=1,
        hard_vocab_limit=False,
    )  # fmt: skip
    return folder / "spiece.model"
