"""One program for one device, eight virtual ones, or many hosts: a mesh, rows spread over it, and back.

All arrays that travel in batches carry their rows on mesh axis "data". Every process calls these
functions at the same point of the program: on several hosts `fetch` is a collective.
"""

import asyncio
import functools
import importlib.util
import os
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from vitjax.errors import UserError
from vitjax.system import peers

ROWS = PartitionSpec("data")


def initialize_distributed() -> bool:
    """Joins the other processes of this run, where the environment says that there are any.

    Call it before anything else of JAX. It reads, in this order:

    - `JAX_COORDINATOR_ADDRESS` (host:port) with `JAX_NUM_PROCESSES` and `JAX_PROCESS_ID`. JAX itself knows
      only the first; the other two are needed where no cluster manager below supplies them.
    - what `jax.distributed.initialize` finds by itself: Slurm with more than one task in the step, Open MPI,
      Kubernetes indexed jobs, Cloud TPU hosts. Under Slurm and Open MPI JAX gives each process one GPU; set
      `JAX_LOCAL_DEVICE_IDS` (0,1,...) for several.

    All processes meet here, however late one of them starts, before the first exchange between them; and from
    here on they watch each other (see `vitjax.system.peers`).

    Returns:
        True where this process is now one of a distributed run, False where it runs alone.
    """
    if joined := jax.distributed.is_initialized() or _join():
        _meet()
    return joined


@functools.cache
def _meet() -> None:
    """Waits for all, once: on CPUs the first exchange alone would wait for half a minute at most."""
    if jax.process_count() > 1:
        wait_for_all("started")
        peers.watch()


def _join() -> bool:
    """Joins the run that the environment names, if any."""
    address, count, rank = (
        os.environ.get(name) for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
    )
    if count is not None or rank is not None:
        if not (address and count and rank and count.isdigit() and rank.isdigit()):
            raise UserError(
                f"JAX_COORDINATOR_ADDRESS={address!r}, JAX_NUM_PROCESSES={count!r}, JAX_PROCESS_ID={rank!r}: "
                "give all three (host:port and two whole numbers), or only the first on a known cluster"
            )
        jax.distributed.initialize(address, int(count), int(rank))
        return True
    if address or _in_cluster():
        jax.distributed.initialize()
        return True
    return _join_tpu_hosts()


def _in_cluster() -> bool:
    env = os.environ
    slurm = "SLURM_PROCID" in env and int(env.get("SLURM_STEP_NUM_TASKS", env.get("SLURM_NTASKS", "1"))) > 1
    open_mpi = "OMPI_MCA_orte_hnp_uri" in env and int(env.get("OMPI_COMM_WORLD_SIZE", "1")) > 1
    kubernetes = "KUBERNETES_SERVICE_HOST" in env and "JOB_COMPLETION_INDEX" in env
    hosts = env.get("TPU_PROCESS_ADDRESSES") or env.get("TPU_WORKER_HOSTNAMES") or ""
    return slurm or open_mpi or kubernetes or "," in hosts or "MEGASCALE_COORDINATOR_ADDRESS" in env


def _join_tpu_hosts() -> bool:
    """Joins a Cloud TPU slice whose hosts only the machine's metadata names, not its environment."""
    # JAX sets this variable itself on machines without a TPU.
    if "TPU_SKIP_MDS_QUERY" in os.environ or importlib.util.find_spec("libtpu") is None:
        return False
    try:
        jax.distributed.initialize()
    except ValueError:  # no coordinator: a TPU outside of a managed slice, so one host
        return False
    return True


def is_main_process() -> bool:
    """Tells whether this process is the one that writes files and prints."""
    return jax.process_index() == 0


def wait_for_all(point: str, *, seconds: int = 3600) -> None:
    """Waits until every process has come to this point of the program; returns at once where there is one.

    By way of the coordinator. The first exchange between devices would wait too, on CPUs half a minute only,
    and one process may compile for longer than another.

    Args:
        point: a name that no other call has.
        seconds: until it gives up.
    """
    if jax.process_count() > 1:
        from orbax.checkpoint import v1 as ocp

        everyone = set(range(jax.process_count()))
        asyncio.run(
            ocp.multihost.sync_global_processes(
                point, operation_id="vitjax", timeout=seconds, processes=everyone
            )
        )


def make_mesh() -> Mesh:
    """Returns a one-axis mesh ("data", Auto) over every device of every process."""
    return jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))


def pad_rows(tree: Any, multiple: int) -> Any:
    """Pads the first axis of every host array with zeros (False) up to a multiple.

    Args:
        tree: pytree of host arrays.
        multiple: rows of the result are divisible by it; no rows become one multiple.
    """

    def pad(x: Any) -> np.ndarray:
        x = np.asarray(x)
        missing = max(-len(x) % multiple, multiple * (len(x) == 0))
        return np.concatenate([x, np.zeros((missing, *x.shape[1:]), x.dtype)]) if missing else x

    return jax.tree.map(pad, tree)


def shard_batch(tree: Any, mesh: Mesh) -> Any:
    """Puts this process's rows on its devices; the global array holds the rows of all processes in order.

    Args:
        tree: pytree of host arrays with the same number of rows in every process, divisible by the number of
            this process's devices (see `pad_rows`).
        mesh: from `make_mesh`.
    """
    sharding, devices = NamedSharding(mesh, ROWS), mesh.local_mesh.size

    def place(x: Any) -> jax.Array:
        x = np.asarray(x)
        if x.shape[0] % devices:
            raise UserError(
                f"shard_batch: {x.shape[0]} rows do not divide by this process's {devices} devices; "
                "use pad_rows"
            )
        return jax.make_array_from_process_local_data(sharding, x)

    return jax.tree.map(place, tree)


def own_devices(mesh: Mesh) -> list[int]:
    """Which of the mesh's devices, counted along "data", belong to this process; rising."""
    indices = NamedSharding(mesh, ROWS).addressable_devices_indices_map((mesh.size,)).values()
    return sorted(_start(index) for index in indices)


def join_shares(shares: dict[int, Any], mesh: Mesh) -> Any:
    """Makes global arrays of one share for each device, in the devices' order.

    Args:
        shares: number of a device on the mesh -> pytree of host arrays, for this process's devices only (see
            `own_devices`); all of equal shapes.
        mesh: from `make_mesh`.
    """
    sharding = NamedSharding(mesh, ROWS)

    def place(*parts: Any) -> jax.Array:
        rows, held = len(parts[0]), dict(zip(shares, parts, strict=True))
        shape = (mesh.size * rows, *parts[0].shape[1:])
        return jax.make_array_from_callback(shape, sharding, lambda index: held[_start(index) // rows])

    return jax.tree.map(place, *shares.values())


def _start(index: Any) -> int:
    """First row of an index of rows."""
    return index[0].start or 0


def spread_rows(tree: Any, mesh: Mesh) -> Any:
    """Puts rows that every process holds in full on all devices; each device gets its share.

    Args:
        tree: pytree of host arrays, equal in every process, rows divisible by the number of devices.
        mesh: from `make_mesh`.
    """
    return _place(tree, NamedSharding(mesh, ROWS))


def replicate(tree: Any, mesh: Mesh) -> Any:
    """Puts a full copy of every array, equal in every process, on each device."""
    return _place(tree, NamedSharding(mesh, PartitionSpec()))


def _place(tree: Any, sharding: NamedSharding) -> Any:
    def place(x: Any) -> jax.Array:
        if isinstance(x, jax.Array) and x.sharding.is_equivalent_to(sharding, x.ndim):
            return x
        if jax.process_count() == 1:
            return jax.device_put(x, sharding)
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(place, tree)


def from_main(number: int) -> int:
    """Returns the number that process 0 gives; every process waits for it."""
    if jax.process_count() == 1:
        return number
    return int(multihost_utils.broadcast_one_to_all(np.int32(number)))


def fetch(tree: Any) -> Any:
    """Brings arrays to the host as NumPy, whole, in every process; waits for them."""

    def get(x: Any) -> np.ndarray:
        if isinstance(x, jax.Array) and not (x.is_fully_addressable or x.is_fully_replicated):
            return np.asarray(multihost_utils.process_allgather(x, tiled=True))
        return np.asarray(x)

    return jax.tree.map(get, tree)
