import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitjax import ot
from vitjax.ot.solvers import batching


@pytest.mark.parametrize("size", [1, 7, 64, 100, 101])
def test_blocks_give_what_the_whole_batch_gives(monkeypatch, size):
    monkeypatch.setitem(batching._ENTRIES, "cpu", 160)
    x = jnp.arange(size * 4.0).reshape(size, 4)
    sizes = []

    def function(x, missing):
        sizes.append(x.shape[0])
        return {"sum": x.sum(-1), "missing": missing}

    result = batching.map_blocks(function, (x, None), entries=16)
    np.testing.assert_array_equal(result["sum"], x.sum(-1))
    assert result["missing"] is None
    assert set(sizes) == {min(size, {7: 7, 64: 8, 100: 10, 101: 10}.get(size, size))}


def test_memory_of_a_large_batch_is_a_few_times_that_of_its_costs():
    # Blocks keep kernels and their like to a block; costs in block order, plans, and plans in order are left.
    pairs, n = 2000, 49

    def score(cost, a):
        return (ot.sinkhorn(cost, a, a, epsilon=0.05).plan * cost).sum((1, 2))

    shapes = jax.ShapeDtypeStruct((pairs, n, n), jnp.float32), jax.ShapeDtypeStruct((pairs, n), jnp.float32)
    analysis = jax.jit(score).lower(*shapes).compile().memory_analysis()
    assert analysis.temp_size_in_bytes < 3.5 * 4 * pairs * n * n
