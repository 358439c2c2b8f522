"""Codes of tokens: signs, ITQ and product quantisation (kind h7), and those of AMES (kind h2)."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
import pytest

from tests.parity.fixture import Fixture, assert_all_compared, assert_close
from vitjax.retrieval.gallery.codecs import (
    ProductCodec,
    SignCodec,
    cosine_of_hamming,
    hamming,
    itq,
    principal,
)


def _unit(x: np.ndarray) -> np.ndarray:
    x = x.astype(np.float64)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def check_codes(fixture: Fixture) -> None:
    bits, given = fixture.meta["config"]["bits"], fixture.inputs
    tokens = _unit(given["tokens"])
    flat = tokens.reshape(-1, tokens.shape[-1])
    mean, pca = principal(flat, bits)
    projected = (tokens - mean) @ pca
    iterations = fixture.meta["config"]["iterations"]
    rotation, loss = itq(projected.reshape(-1, bits), given["itq_start"], iterations)
    ours = {"mean": mean, "pca": pca, "projected": projected, "cosine": tokens[0] @ tokens[1].T}
    ours |= {"itq/rotation": rotation, "itq/loss": np.array(loss)}
    plain = SignCodec(np.zeros(tokens.shape[-1]), None, 1.0)
    for name, codec, count in (
        ("sign", plain, tokens.shape[-1]),
        ("itq", SignCodec(mean, pca @ rotation, 1.0), bits),
    ):
        packed = codec.encode(tokens)
        distance = np.asarray(hamming(packed[0], packed[1]))
        angle = np.asarray(cosine_of_hamming(distance, count))
        ours |= {f"{name}/packed": packed, f"{name}/hamming": distance, f"{name}/cosine_angle": angle}
        ours[f"{name}/codes"] = np.unpackbits(packed, axis=-1)[..., :count].astype(np.int32)
        ours[f"{name}/cosine_linear"] = 1 - 2 * distance / count
        ours[f"{name}/maxsim_angle"] = angle.max(axis=1).mean()
    product = ProductCodec(given["codebooks"])
    codes = product.encode(tokens)
    table = product.table(jnp.asarray(tokens[1], jnp.float32))
    ours |= {"pq/codes": codes.astype(np.int32), "pq/decoded": product.words(codes), "pq/table": table}
    ours["pq/similarity"] = product.looked_up(table, codes[0])
    assert_all_compared(fixture, ours, {"pq/packed": "codes of a byte each are stored, not of 4 bits"})


def check_ames(fixture: Fixture) -> None:
    """The codes, through the layers that AMES puts behind them; its transformer is not ours."""
    if "binary" not in fixture.stem:
        pytest.skip("full tokens go through AMES's transformer only, which is not part of vitjax")
    w = {name: x.astype(np.float64) for name, x in fixture.weights.items()}
    codec = SignCodec(np.zeros(len(w["remap_local.0.W"])), w["remap_local.0.W"], 1.0)
    for side in ("src", "tgt"):
        bits = np.unpackbits(codec.encode(_unit(fixture.inputs[side])), axis=-1)
        x = (2.0 * bits - 1) @ w["remap_local.1.weight"].T + w["remap_local.1.bias"]
        x = (x - x.mean(-1, keepdims=True)) / np.sqrt(
            x.var(-1, keepdims=True) + fixture.meta["config"]["eps"]
        )
        x = x * w["remap_local.2.weight"] + w["remap_local.2.bias"]
        assert_close(x, fixture.outputs[f"{side}_mapped"], fixture.tolerance, f"{fixture.stem} {side}_mapped")


CHECKS: dict[str, Callable[[Fixture], None]] = {"h2": check_ames, "h7": check_codes}
