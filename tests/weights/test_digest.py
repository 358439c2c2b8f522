import jax.numpy as jnp
import numpy as np

from vitjax.weights import fingerprint


def test_a_fingerprint_tells_values_names_shapes_and_types_apart():
    w = np.arange(4, dtype=np.float32)
    others = [{"w": w + 1}, {"v": w}, {"w": w.reshape(2, 2)}, {"w": w.astype(np.float16)}, {"w": w, "b": w}]
    assert len({fingerprint(x) for x in [{"w": w}, *others]}) == 6
    assert fingerprint({"w": jnp.asarray(w)}) == fingerprint({"w": w})
