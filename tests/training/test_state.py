import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from vitjax import sharding
from vitjax.training.state import shardings


def test_each_device_holds_a_part_of_the_longest_axis_that_divides():
    mesh = sharding.make_mesh()
    shapes = {"wide": (4, 8), "tall": (8, 4), "odd": (3, 2), "none": (3, 5), "scalar": ()}
    state = {name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in shapes.items()}
    whole = PartitionSpec()
    found = {name: place.spec for name, place in shardings(state, mesh, "fsdp").items()}
    assert found == {
        "wide": PartitionSpec(None, "data"),
        "tall": PartitionSpec("data"),
        "odd": PartitionSpec(None, "data"),
        "none": whole,
        "scalar": whole,
    }
    assert {place.spec for place in shardings(state, mesh, "replicated").values()} == {whole}
