import os
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from tests.retrieval.cases import filled_gallery
from vitjax import sharding

TWO_PROCESSES = """
import sys
import jax
import numpy as np
from vitjax import sharding

assert sharding.initialize_distributed() and jax.process_count() == 2
mesh, rank = sharding.make_mesh(), jax.process_index()
mine = np.arange(4.0, dtype=np.float32).reshape(4, 1) + 10 * rank
rows = sharding.shard_batch({"x": mine}, mesh)["x"]
assert rows.shape == (8, 1), rows.shape
want = np.array([0, 1, 2, 3, 10, 11, 12, 13], np.float32)[:, None]
np.testing.assert_array_equal(sharding.fetch(rows), want)
np.testing.assert_array_equal(sharding.fetch(jax.jit(lambda x: x * 2)(rows)), 2 * want)
everywhere = sharding.replicate(want, mesh)
np.testing.assert_array_equal(sharding.fetch(everywhere), want)
np.testing.assert_array_equal(sharding.fetch(sharding.spread_rows(want, mesh)), want)
assert sharding.is_main_process() == (rank == 0)
places = sharding.own_devices(mesh)
assert places == [2 * rank, 2 * rank + 1]
joined = sharding.join_shares({place: {"x": np.full(2, place)} for place in places}, mesh)["x"]
np.testing.assert_array_equal(sharding.fetch(joined), [0, 0, 1, 1, 2, 2, 3, 3])

from vitjax.retrieval import search
rng = np.random.default_rng(0)
queries, gallery = rng.normal(size=(5, 8)), rng.normal(size=(31, 8))
queries, gallery = queries.astype(np.float32), gallery.astype(np.float32)
scores, index = search(queries, gallery, 4, mesh=mesh)
alone = np.argsort(-(queries @ gallery.T), axis=1, kind="stable")[:, :4]
np.testing.assert_array_equal(index, alone)

from vitjax.retrieval import Descriptors, Gallery, RerankConfig, rerank
from vitjax.retrieval.first_stage import streaming
stored, spans = Gallery.open(sys.argv[1]), []
read, streaming.CHUNK_BYTES = stored.read_pooled, 2**9
stored.read_pooled = lambda rows: spans.append((rows.start, rows.stop)) or read(rows)
nearest = stored.search(queries, 4, mesh=mesh)[1]
whole = stored.take(slice(None))
apart = np.argsort(-(queries @ whole.pooled.T), axis=1, kind="stable")[:, :4]
np.testing.assert_array_equal(nearest, apart)
share = -(-len(stored) // 4)
inside = range(2 * rank * share, 2 * (rank + 1) * share)
assert spans and all(start in inside and stop - 1 in inside for start, stop in spans), spans

images = Descriptors.from_arrays(gallery, rng.normal(size=(31, 4, 6)))
together = rerank(images.take(np.arange(5)), images, index, mesh=mesh)
apart = rerank(images.take(np.arange(5)), images, index)
np.testing.assert_array_equal(together.index, apart.index)
np.testing.assert_allclose(together.score, apart.score, rtol=0, atol=1e-6)

from vitjax.retrieval.reranking import matching
matching._CPU_PAIRS = 6  # one query for each device
read, rows = stored.read, []
stored.read = lambda asked: rows.append(len(asked)) or read(asked)
config, order = RerankConfig(method="chamfer"), np.arange(54).reshape(9, 6)
streamed = rerank(whole.take(np.arange(9)), stored, order, config=config, mesh=mesh)
apart = rerank(whole.take(np.arange(9)), whole, order, config=config)
np.testing.assert_array_equal(streamed.index, apart.index)
np.testing.assert_allclose(streamed.score, apart.score, rtol=0, atol=1e-6)
# Of 9 queries two in each of three blocks are this process's; padding reads a row.
assert len(rows) == 6 and sum(rows) <= 31, rows
print("done", rank)
"""


def test_mesh_spans_all_devices_with_an_auto_axis():
    mesh = sharding.make_mesh()
    assert mesh.axis_names == ("data",) and mesh.size == jax.device_count() == 2
    assert mesh.axis_types == (jax.sharding.AxisType.Auto,)


def test_padding_adds_zero_rows_up_to_the_multiple():
    padded = sharding.pad_rows({"x": np.ones((5, 2)), "valid": np.ones(5, bool)}, 4)
    assert padded["x"].shape == (8, 2) and not padded["x"][5:].any()
    np.testing.assert_array_equal(padded["valid"], [True] * 5 + [False] * 3)
    assert sharding.pad_rows(np.zeros((0, 3)), 4).shape == (4, 3)


def test_sharded_rows_come_back_in_order():
    mesh, rows = sharding.make_mesh(), np.arange(12.0).reshape(6, 2).astype(np.float32)
    sharded = sharding.shard_batch(rows, mesh)
    assert [shard.data.shape for shard in sharded.addressable_shards] == [(3, 2), (3, 2)]
    np.testing.assert_array_equal(sharding.fetch(sharded), rows)


def test_rows_that_do_not_divide_are_refused_with_advice():
    with pytest.raises(ValueError, match="3 rows do not divide by this process's 2 devices; use pad_rows"):
        sharding.shard_batch(np.zeros((3, 2)), sharding.make_mesh())


def test_shares_are_joined_in_the_order_of_the_devices():
    mesh = sharding.make_mesh()
    assert sharding.own_devices(mesh) == [0, 1]
    joined = sharding.join_shares({1: np.full((2, 3), 1.0), 0: np.full((2, 3), 0.0)}, mesh)
    np.testing.assert_array_equal(joined[:, 0], [0, 0, 1, 1])
    assert [shard.data.shape for shard in joined.addressable_shards] == [(2, 3), (2, 3)]


def test_replicated_value_is_whole_on_each_device():
    copies = sharding.replicate(np.arange(3.0, dtype=np.float32), sharding.make_mesh())
    assert [shard.data.shape for shard in copies.addressable_shards] == [(3,), (3,)]


def test_alone_when_the_environment_names_no_others(monkeypatch):
    for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    assert not sharding.initialize_distributed()


@pytest.mark.parametrize(("count", "rank"), [("2", None), (None, "0"), ("two", "0")])
def test_half_a_distributed_setting_is_refused(monkeypatch, count, rank):
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "localhost:1")
    for name, value in (("JAX_NUM_PROCESSES", count), ("JAX_PROCESS_ID", rank)):
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="give all three"):
        sharding.initialize_distributed()


def test_two_processes_share_rows_and_rank_alike(tmp_path):
    filled_gallery(tmp_path / "gallery", 150, d=8).close()
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    base = os.environ | {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": "2"}
    base["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # most of the time is compiling
    command = [sys.executable, "-c", TWO_PROCESSES, str(tmp_path / "gallery")]
    runs = [
        subprocess.Popen(
            command,
            env=base | {"JAX_PROCESS_ID": str(rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        texts = [run.communicate(timeout=120)[0] for run in runs]
    finally:
        for run in runs:
            run.kill()
    for rank, (run, text) in enumerate(zip(runs, texts, strict=True)):
        assert run.returncode == 0 and f"done {rank}" in text, text


@pytest.mark.parametrize(("step", "job", "joined"), [("1", "4", False), ("2", "1", True), (None, "4", True)])
def test_the_tasks_of_a_slurm_step_count_before_those_of_its_job(monkeypatch, step, job, joined):
    for name in [name for name in os.environ if name.startswith(("SLURM", "OMPI", "TPU", "KUBERNETES"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_PROCID", "0")
    monkeypatch.setenv("SLURM_NTASKS", job)
    if step:
        monkeypatch.setenv("SLURM_STEP_NUM_TASKS", step)
    assert sharding._in_cluster() is joined
