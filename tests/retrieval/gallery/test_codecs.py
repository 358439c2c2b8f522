"""Codes: what is learned without labels, and that reranking on codes is reranking of what they stand for."""

import dataclasses

import numpy as np
import pytest

from tests.retrieval.cases import random_descriptors, rankings
from vitjax.retrieval import Gallery, GalleryError, RerankConfig, rerank
from vitjax.retrieval.gallery.codecs import (
    CODECS,
    cosine_of_hamming,
    hamming,
    learn_itq,
    learn_pq,
    learn_sign,
)

FOUND = random_descriptors(30, tokens=6, d=32)
FOUND.valid[4, 3:] = False
TOKENS = FOUND.tokens.reshape(-1, 32)


def filled(path, kind: str, bits: int = 16) -> Gallery:
    gallery = Gallery.create(path, dtype=kind, pooled_dtype="int8", codec=CODECS[kind](TOKENS, bits))
    gallery.add(FOUND.take(slice(0, 11)), list("abcdefghijk"))
    gallery.add(FOUND.take(slice(11, 30)), [f"image {i}" for i in range(19)])
    gallery.close()
    return Gallery.open(path)


@pytest.mark.parametrize(("kind", "size", "least"), [("sign", 4, 0.75), ("itq", 2, 0.6), ("pq", 2, 0.9)])
def test_codes_are_reranked_as_what_they_stand_for(tmp_path, kind, size, least):
    gallery = filled(tmp_path / "g", kind)
    assert gallery.sizes == FOUND.sizes and gallery.read([0])().tokens.shape == (1, 6, size)
    decoded = gallery.take(slice(None))
    cosine = np.einsum("ntd,ntd->nt", decoded.tokens, FOUND.tokens)[FOUND.valid]
    assert cosine.mean() > least and decoded.tokens.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(decoded.tokens, axis=2)[FOUND.valid], 1, atol=1e-5)
    np.testing.assert_array_equal(decoded.valid, FOUND.valid)
    kept = np.where(FOUND.valid, FOUND.weights, 0)
    np.testing.assert_allclose(decoded.weights, kept / kept.sum(1, keepdims=True), atol=3e-3)
    np.testing.assert_allclose(decoded.pooled, FOUND.pooled, atol=5e-3)
    queries, index = random_descriptors(3, tokens=5, d=32, seed=7), rankings(3, 30, 12)
    one, two = (rerank(queries, x, index, config=RerankConfig(method="chamfer")) for x in (gallery, decoded))
    np.testing.assert_array_equal(one.index, two.index)
    np.testing.assert_allclose(one.score, two.score, atol=1e-5)
    np.testing.assert_array_equal(
        gallery.search(queries, 5)[1], np.argsort(-queries.pooled @ decoded.pooled.T)[:, :5]
    )


def test_rotated_signs_are_nearer_than_those_of_the_same_directions():
    rng = np.random.default_rng(1)
    tokens = rng.normal(size=(600, 32)) * np.linspace(3, 0.2, 32)
    tokens /= np.linalg.norm(tokens, axis=1, keepdims=True)
    itq = learn_itq(tokens, 16)
    assert itq.directions.shape == (32, 16)
    np.testing.assert_allclose(itq.directions.T @ itq.directions, np.eye(16), atol=1e-5)
    again = learn_itq(tokens, 16)
    np.testing.assert_array_equal(itq.directions, again.directions)
    cosine = (itq.decode(itq.encode(tokens)) * tokens).sum(1).mean()
    plain = learn_sign(tokens)
    bits = dataclasses.replace(plain, directions=np.eye(32, dtype=np.float32)[:, :16])
    assert cosine > (bits.decode(bits.encode(tokens)) * tokens).sum(1).mean() + 0.02


def test_differing_bits_are_counted():
    rng = np.random.default_rng(2)
    one, two = rng.integers(0, 2, (5, 40)), rng.integers(0, 2, (7, 40))
    wanted = (one[:, None] != two[None]).sum(-1)
    packed = [np.packbits(x, axis=1) for x in (one, two)]
    np.testing.assert_array_equal(hamming(*packed), wanted)
    np.testing.assert_allclose(cosine_of_hamming(wanted, 40), np.cos(np.pi * wanted / 40), atol=1e-6)


def test_a_table_gives_the_products_of_what_codes_stand_for():
    pq = learn_pq(TOKENS, 32)
    queries, codes = random_descriptors(1, tokens=4, d=32, seed=3).tokens[0], pq.encode(TOKENS[:9])
    found = pq.looked_up(pq.table(queries), codes)
    np.testing.assert_allclose(found, queries @ pq.words(codes).T, atol=1e-5)


def test_a_codec_that_is_not_the_one_of_the_gallery_is_refused(tmp_path):
    filled(tmp_path / "g", "itq")
    file = tmp_path / "g" / "codec.npz"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    with pytest.raises(GalleryError, match=r"codec\.npz is damaged or missing"):
        Gallery.open(tmp_path / "g")
    file.unlink()
    with pytest.raises(GalleryError, match=r"codec\.npz is damaged or missing"):
        Gallery.open(tmp_path / "g")


def test_a_codec_and_its_name_go_together(tmp_path):
    with pytest.raises(ValueError, match="give a codec where it is a name of CODECS"):
        Gallery.create(tmp_path / "a", dtype="itq")
    with pytest.raises(ValueError, match="give a codec where it is a name of CODECS"):
        Gallery.create(tmp_path / "b", dtype="int8", codec=CODECS["sign"](TOKENS))
    with pytest.raises(ValueError, match="40 bits are 5 parts, which do not divide 32 numbers"):
        CODECS["pq"](TOKENS, 40)
