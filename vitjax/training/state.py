"""The training state: everything that the next step depends on."""

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec


class State(flax.struct.PyTreeNode):
    """A pytree that is saved whole; learning rates, random numbers and data are functions of `step`.

    Leaves are arrays, or what stands for them: shapes, shardings. The counters are int32 scalars.

    Attributes:
        step: updates so far, those left out included.
        variables: {"params": ..., and "batch_stats" where the model has them}.
        opt: the optimiser's moments.
        ema: EMA of `variables`; an empty dict where none is kept.
        skipped: steps whose loss or gradient was not finite; they changed nothing but the two counters.
        bad_step: the step at which more were left out than allowed; -1 = none.
    """

    step: Any
    variables: dict[str, Any]
    opt: optax.OptState
    ema: dict[str, Any]
    skipped: Any
    bad_step: Any

    @property
    def evaluated(self) -> dict[str, Any]:
        """Variables that an evaluation uses: the EMA where there is one."""
        return self.ema or self.variables


def create(variables: dict[str, Any], tx: optax.GradientTransformation, *, ema: bool) -> State:
    """The state before the first step; runs under jit."""
    return State(
        step=jnp.int32(0),
        variables=variables,
        opt=tx.init(variables["params"]),
        ema=jax.tree.map(jnp.copy, variables) if ema else {},
        skipped=jnp.int32(0),
        bad_step=jnp.int32(-1),
    )


def shardings(state: Any, mesh: Mesh, kind: str) -> Any:
    """Where each leaf of a state lives.

    Args:
        state: arrays, or their shapes.
        mesh: from `sharding.make_mesh`.
        kind: "replicated": every device holds all; "fsdp": of each leaf with an axis that divides over the
            devices, each device holds a part of the longest such axis.
    """

    def sharding_of(leaf: Any) -> NamedSharding:
        fitting = [i for i, n in enumerate(leaf.shape) if n % mesh.size == 0 and n > 1]
        if kind != "fsdp" or not fitting:
            return NamedSharding(mesh, PartitionSpec())
        longest = max(fitting, key=lambda i: leaf.shape[i])
        return NamedSharding(mesh, PartitionSpec(*[None] * longest, "data"))

    return jax.tree.map(sharding_of, state)
