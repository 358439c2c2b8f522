"""Ids of every file format, by hand where the vocabulary is, and by the libraries themselves."""

import itertools

import numpy as np
import pytest

from tests.text import tiny
from vitjax.errors import UserError
from vitjax.pretrained import MODELS, ModelCard, TextSpec
from vitjax.text import Tokenizer, load_tokenizer
from vitjax.text.vocabulary import read_vocabulary

SIGLIP = TextSpec("canonical", start=False, end=True, pad="end")
LETTER = {piece: i for i, piece in enumerate(tiny.pieces())}
START, END = LETTER["<|startoftext|>"], LETTER["<|endoftext|>"]


@pytest.fixture(scope="module", autouse=True)
def libraries():
    tiny.libraries()


@pytest.fixture(scope="module")
def unigrams(tmp_path_factory):
    return read_vocabulary(str(tiny.sentencepiece(tmp_path_factory.mktemp("unigrams"))))


def clip(folder, write, length: int = 8, **fields) -> Tokenizer:
    return Tokenizer(read_vocabulary(str(write(folder))), TextSpec(**fields), length)


@pytest.mark.parametrize("write", [tiny.openai, tiny.hugging_face, tiny.tokenizer_json])
def test_each_format_of_clip_gives_the_same_ids(tmp_path, write):
    ids, valid = clip(tmp_path, write)(["  Red\tCAT ", "and 12's"])
    assert (ids.dtype, valid.dtype) == (np.int32, bool)
    assert ids[0].tolist() == [START, LETTER["red</w>"], LETTER["cat</w>"], END, 0, 0, 0, 0]
    word = [LETTER[piece] for piece in ("and</w>", "1</w>", "2</w>", "'", "s</w>")]
    assert ids[1].tolist() == [START, *word, END, 0]
    assert valid.sum(axis=1).tolist() == [4, 7] and valid[:, :4].all()


def test_the_end_token_pads_where_the_model_says_so_and_valid_tells_them_apart(tmp_path):
    ids, valid = clip(tmp_path, tiny.hugging_face, pad="end")(["red", "cat and"])
    assert ids[0].tolist() == [START, LETTER["red</w>"], *[END] * 6]
    assert valid.sum(axis=1).tolist() == [3, 4]


def test_a_long_text_is_cut_and_keeps_its_end(tmp_path):
    ids, valid = clip(tmp_path, tiny.openai)(["red " * 30])
    assert ids[0].tolist() == [START, *[LETTER["red</w>"]] * 6, END] and valid.all()


def test_a_text_cannot_end_itself(tmp_path):
    for write in (tiny.openai, tiny.tokenizer_json):
        ids, valid = clip(tmp_path, write, length=40)(["red <|endoftext|> cat"])
        assert (ids[0] == END).sum() == 1 and ids[0][valid[0]][-2] == LETTER["cat</w>"]


def test_openais_file_mends_texts_as_openais_code_does(tmp_path):
    mended, plain = clip(tmp_path, tiny.openai, length=20), clip(tmp_path, tiny.hugging_face, length=20)
    odd, even = ["red&amp;amp;cat’s"], ["red&cat's"]
    np.testing.assert_array_equal(mended(odd)[0], mended(even)[0])
    assert (plain(odd)[0] != plain(even)[0]).any()


def test_siglip_removes_case_and_punctuation_and_pads_with_its_end(unigrams):
    tokenizer, texts = Tokenizer(unigrams, SIGLIP, 8), ["A, CAT!", "red " * 20]
    ids, valid = tokenizer(texts)
    own = unigrams.encoder.encode(["a cat", ("red " * 20).strip()], out_type=int)
    first = [*own[0], 1]
    assert ids[0].tolist() == [*first, *[1] * (8 - len(first))] and valid[0].sum() == len(first) < 8
    assert ids[1].tolist() == [*own[1][:7], 1] and valid[1].all()


def test_siglip_2_and_tips_keep_punctuation_and_pad_with_zero(unigrams):
    text, long = "Naïve Σ, dogs", TextSpec("lower", start=False, end=True, pad=0)
    own = unigrams.encoder.encode("naïve σ, dogs", out_type=int)
    for spec, line in ((long, [*own, 1]), (TextSpec("lower", False, False, 0), own)):
        ids, valid = Tokenizer(unigrams, spec, 30)([text])
        assert ids[0].tolist() == [*line, *[0] * (30 - len(line))] and valid[0].sum() == len(line)


@pytest.mark.parametrize("write", [tiny.openai, tiny.hugging_face, tiny.tokenizer_json])
def test_words_are_groups_of_tokens_without_start_and_end(tmp_path, write):
    tokenizer = clip(tmp_path, write, length=30)
    ids, valid = tokenizer(["Red dön cat"])
    words = tokenizer.words(ids[0], valid[0])
    assert [word.text for word in words] == ["red", "dön", "cat"]
    assert [(word.start, word.stop) for word in words] == [(1, 2), (2, 6), (6, 7)]


def test_words_of_sentencepiece_begin_at_its_mark(unigrams):
    tokenizer = Tokenizer(unigrams, TextSpec("canonical", False, True, "end"), 40)
    ids, valid = tokenizer(["Two dogs, naïve"])
    words = tokenizer.words(ids[0], valid[0])
    assert [word.text for word in words] == ["two", "dogs", "naïve"]
    assert words[0].start == 0 and words[-1].stop == valid[0].sum() - 1
    assert all(one.stop == two.start for one, two in itertools.pairwise(words))


def test_a_cut_word_is_still_a_word(tmp_path):
    tokenizer = clip(tmp_path, tiny.openai, length=5)
    ids, valid = tokenizer(["red dress"])
    assert [word.text for word in tokenizer.words(ids[0], valid[0])] == ["red", "dre"]


def test_a_model_names_its_rules_and_its_number_of_ids(tmp_path, monkeypatch):
    path = str(tiny.openai(tmp_path))
    tower = {"vocab_size": len(tiny.pieces()), "context_length": 6}
    monkeypatch.setitem(MODELS, "tiny", ModelCard("TwoTowers", {"text": tower}, text=TextSpec()))
    assert load_tokenizer(path, "tiny")(["cat"])[0].shape == (1, 6)
    assert load_tokenizer(path, "tiny", length=9)(["cat"])[0].shape == (1, 9)
    monkeypatch.setitem(MODELS, "other", ModelCard("TwoTowers", text=TextSpec()))
    with pytest.raises(UserError, match=r"has 524 ids, model 'other' knows 49408"):
        load_tokenizer(path, "other")
    with pytest.raises(UserError, match="no text tower"):
        load_tokenizer(path, "deit_small_patch16_224")


@pytest.mark.parametrize("name", ["tokenizer.json", "vocab.json", "spiece.model", "bpe.txt.gz"])
def test_a_damaged_file_is_one_line(tmp_path, name):
    (tmp_path / name).write_bytes(b"\x00\x01 not a vocabulary")
    (tmp_path / "merges.txt").write_text("a b\n")
    with pytest.raises(UserError, match=r"cannot be read|is not UTF-8 text") as error:
        read_vocabulary(str(tmp_path / name))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("source", ["hf:org/repo@main", "hf:org/repo/vocab.json@main"])
def test_a_repository_gives_the_merges_beside_its_vocabulary(tmp_path, monkeypatch, source):
    asked = []

    def fetch(source, *, files=()):
        asked.append(source)
        return tiny.hugging_face(tmp_path) / ("merges.txt" if "merges" in source else "vocab.json")

    monkeypatch.setattr("vitjax.text.vocabulary.fetch", fetch)
    assert read_vocabulary(source).size == len(tiny.pieces())
    assert asked == [source, "hf:org/repo/merges.txt@main"]


def test_a_missing_file_a_missing_library_and_one_text_are_told(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"no tokenizer\.json, vocab\.json"):
        read_vocabulary(str(tmp_path))
    with pytest.raises(TypeError, match="list of texts"):
        clip(tmp_path, tiny.hugging_face)("red")
    with pytest.raises(UserError, match="no room for a word"):
        clip(tmp_path, tiny.hugging_face, length=2)
    monkeypatch.setitem(__import__("sys").modules, "tokenizers", None)
    with pytest.raises(UserError, match=r"needs tokenizers; run: pip install"):
        read_vocabulary(str(tmp_path))


def test_a_vocabulary_without_the_tokens_a_model_expects_is_refused(unigrams):
    with pytest.raises(UserError, match="has no start token"):
        Tokenizer(unigrams, TextSpec(), 8)
