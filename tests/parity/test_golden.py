"""One test per numeric fixture: `pytest tests/parity --golden DIR -k a1`."""

import pathlib
import re

import jax
import pytest

from tests.parity import (
    checks_accept,
    checks_clip,
    checks_codes,
    checks_convnext,
    checks_cvt,
    checks_dinov3,
    checks_heads,
    checks_lvvit,
    checks_maxsim,
    checks_ot,
    checks_positions,
    checks_reducers,
    checks_retrieval,
    checks_sparsify,
    checks_swin,
    checks_then,
    checks_tips_pe,
    checks_vit,
    fixture,
)

CHECKS = {
    **checks_vit.CHECKS,
    **checks_accept.CHECKS,
    **checks_clip.CHECKS,
    **checks_codes.CHECKS,
    **checks_convnext.CHECKS,
    **checks_cvt.CHECKS,
    **checks_dinov3.CHECKS,
    **checks_heads.CHECKS,
    **checks_lvvit.CHECKS,
    **checks_maxsim.CHECKS,
    **checks_swin.CHECKS,
    **checks_then.CHECKS,
    **checks_tips_pe.CHECKS,
    **checks_ot.CHECKS,
    **checks_positions.CHECKS,
    **checks_reducers.CHECKS,
    **checks_retrieval.CHECKS,
    **checks_sparsify.CHECKS,
}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    folder: pathlib.Path = metafunc.config.getoption("--golden")
    files = sorted(path for path in folder.glob("*.npz") if re.match(r"[a-z]\d+_", path.name))
    metafunc.parametrize("path", files, ids=[path.stem for path in files])


def test_fixture(path: pathlib.Path) -> None:
    kind = path.name.split("_")[0]
    assert kind in CHECKS, f"no check reads fixtures of kind {kind!r}"
    with jax.default_matmul_precision("highest"), jax.numpy_rank_promotion("allow"):
        CHECKS[kind](fixture.load(path))
