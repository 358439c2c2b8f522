"""Centre, subspace and price as a file."""

import numpy as np
import pytest

from vitjax.retrieval.measured import Measured

CENTER = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
SUBSPACE = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 2)))[0].astype(np.float32)


@pytest.mark.parametrize("values", [(CENTER, SUBSPACE, 0.31), (CENTER, None, 0.0), (None, SUBSPACE, 0.2), ()])
def test_values_come_back_to_the_last_bit(values):
    written = Measured(*values)
    found = Measured.from_bytes(written.to_bytes())
    assert found.digest == written.digest and found.price == written.price
    for ours, theirs in ((found.center, written.center), (found.subspace, written.subspace)):
        assert (ours is None) == (theirs is None)
        assert ours is None or (ours.tobytes() == theirs.tobytes() and ours.dtype == np.float32)
    assert bool(found) == bool(values)


def test_one_bit_more_is_another_digest():
    other = CENTER.copy()
    other.view(np.int32)[2, 1] ^= 1
    assert Measured(CENTER).digest != Measured(other).digest != Measured(subspace=SUBSPACE).digest
    assert Measured(CENTER, price=0.3).digest != Measured(CENTER, price=np.nextafter(0.3, 1)).digest


@pytest.mark.parametrize("data", [b"", b"no archive", Measured(CENTER).to_bytes()[:-40]])
def test_other_bytes_are_refused(data):
    with pytest.raises(ValueError, match="no measured values"):
        Measured.from_bytes(data)
