"""Ids against transformers and open_clip, on texts that are odd: `pytest -m parity tests/parity`."""

import json
import random
import string

import numpy as np
import pytest

from tests.text import tiny
from vitjax.pretrained import TextSpec
from vitjax.text import Tokenizer
from vitjax.text.vocabulary import read_vocabulary

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]
_ODD = [
    "Red DRESS with a round collar!", "it's 2024, isn't it? they've 3 dogs & 12 cats", "no\u00a0br\u3000x",
    " many   spaces\tand\nlines ", "naïve café e\u0301", "“curly” quotes’s", "日本語 😀", "İstanbul ﬁne",
    "AT&amp;T &lt;b&gt;", "x" * 300, "word " * 120, "", "ΑΒΓΣ ΟΔΟΣ", "under_score-hyphen (x) [y]",
]  # fmt: skip


@pytest.fixture(scope="module")
def texts() -> list[str]:
    tiny.libraries()
    draw, letters = random.Random(0), string.ascii_letters + string.digits + string.punctuation + "    éßñ中"
    return _ODD + ["".join(draw.choices(letters, k=draw.randint(1, 90))) for _ in range(200)]


def test_clip_equals_transformers(tmp_path, texts):
    hf = pytest.importorskip("transformers")
    folder = tiny.hugging_face(tmp_path)
    merges = [tuple(merge.split()) for merge in tiny.MERGES]
    theirs = hf.CLIPTokenizer(vocab=json.loads((folder / "vocab.json").read_text()), merges=merges)
    reference = theirs(texts, padding="max_length", max_length=77, truncation=True)
    (tmp_path / "fast").mkdir()
    theirs.save_pretrained(tmp_path / "fast")
    for files in (folder, tmp_path / "fast"):
        ids, valid = Tokenizer(read_vocabulary(str(files)), TextSpec(pad="end"), 77)(texts)
        np.testing.assert_array_equal(ids, reference["input_ids"])
        np.testing.assert_array_equal(valid, np.asarray(reference["attention_mask"], bool))


def test_clip_in_openais_format_equals_open_clip(tmp_path, texts):
    theirs = pytest.importorskip("open_clip.tokenizer", exc_type=ImportError)
    path = tiny.openai(tmp_path)
    for length in (32, 77):
        ids, _ = Tokenizer(read_vocabulary(str(path)), TextSpec(), length)(texts)
        reference = theirs.SimpleTokenizer(str(path), context_length=length)(texts)
        np.testing.assert_array_equal(ids, reference.numpy())


def test_siglip_equals_transformers(tmp_path, texts):
    hf = pytest.importorskip("transformers")
    path = tiny.sentencepiece(tmp_path)
    reference = hf.SiglipTokenizer(str(path))(texts, padding="max_length", max_length=64, truncation=True)
    ids, _ = Tokenizer(read_vocabulary(str(path)), TextSpec("canonical", False, True, "end"), 64)(texts)
    np.testing.assert_array_equal(ids, reference["input_ids"])


def test_siglip_2_equals_transformers(tmp_path, texts):
    hf, t = pytest.importorskip("transformers"), pytest.importorskip("tokenizers")
    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", *(f"<0x{byte:02X}>" for byte in range(256))]
    made = t.Tokenizer(t.models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    made.normalizer = t.normalizers.Replace(" ", "▁")
    made.pre_tokenizer = t.pre_tokenizers.Split(" ", "merged_with_previous")
    trainer = t.trainers.BpeTrainer(vocab_size=500, special_tokens=special, show_progress=False)
    made.train_from_iterator([text.lower() for text in texts], trainer)
    model = json.loads(made.to_str())["model"]
    theirs = hf.Siglip2Tokenizer(
        vocab=model["vocab"], merges=[tuple(pair) for pair in model["merges"]], padding_side="right"
    )
    theirs.save_pretrained(tmp_path)
    ids, valid = Tokenizer(read_vocabulary(str(tmp_path)), TextSpec("lower", False, True, 0), 400)(texts)
    reference = theirs(texts, add_special_tokens=False)["input_ids"]
    for own, real, line in zip(ids, valid, reference, strict=True):
        assert own[real].tolist() == [*line[:399], 1]
