"""What a gallery promises whatever its size, and however many devices read it."""

import os
import pathlib
import socket
import subprocess
import sys

import numpy as np
import pytest

from tests.retrieval.cases import filled_gallery

pytestmark = pytest.mark.slow

RANK = """
import sys
import numpy as np
from tests.retrieval.cases import random_descriptors
from vitjax import sharding
from vitjax.retrieval import Gallery, RerankConfig, rerank
from vitjax.retrieval.first_stage import streaming
from vitjax.retrieval.reranking import matching

sharding.initialize_distributed()
streaming.CHUNK_BYTES, matching._CPU_PAIRS = 2**10, 30  # several chunks, several blocks
mesh, gallery = sharding.make_mesh(), Gallery.open(sys.argv[1])
queries = random_descriptors(30, seed=1)
scores, index = gallery.search(queries, 20, exclude=np.arange(30), mesh=mesh)
config = RerankConfig(mass=0.8, top_k=15)
found = rerank(queries, gallery, index, config=config, mesh=mesh)
if sharding.is_main_process():
    order = np.argsort(found.index, axis=1)  # whatever the order of equal scores
    ranked = np.take_along_axis(found.score, order, axis=1)
    rows = np.take_along_axis(found.index, order, axis=1)
    np.savez(sys.argv[2], devices=mesh.size, scores=scores, index=index, ranked=ranked, rows=rows)
"""


def start(code: str, *arguments: object, **env: str) -> subprocess.Popen:
    command = [sys.executable, "-c", code, *map(str, arguments)]
    env = os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""} | env
    return subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def finish(*processes: subprocess.Popen) -> list[str]:
    try:
        texts = [process.communicate(timeout=240)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * len(processes), texts
    return texts


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_one_device_eight_and_two_processes_search_and_rerank_alike(tmp_path, dtype):
    filled_gallery(tmp_path / "g", 500, dtype=dtype)
    finish(start(RANK, tmp_path / "g", tmp_path / "one.npz"))
    eight = "--xla_force_host_platform_device_count=8"
    finish(start(RANK, tmp_path / "g", tmp_path / "eight.npz", XLA_FLAGS=eight))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    shared = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    pair = [
        start(RANK, tmp_path / "g", tmp_path / "two.npz", JAX_PROCESS_ID=str(rank), **shared)
        for rank in range(2)
    ]
    finish(*pair)
    one, eight, two = (np.load(tmp_path / f"{name}.npz") for name in ("one", "eight", "two"))
    assert [int(x["devices"]) for x in (one, eight, two)] == [1, 8, 2]
    for other in (eight, two):
        np.testing.assert_array_equal(other["index"], one["index"])
        np.testing.assert_array_equal(other["rows"], one["rows"])
        for name in ("scores", "ranked"):
            np.testing.assert_allclose(other[name], one[name], rtol=0, atol=1e-6, err_msg=name)


GROW = """
import sys
import jax
import numpy as np
from tests.retrieval.cases import random_descriptors
from vitjax.retrieval import Descriptors, Gallery, RerankConfig, rerank
from vitjax.retrieval.first_stage import streaming
from vitjax.retrieval.gallery import arrays, storage
from vitjax.retrieval.gallery.build import Described, fill

# A sixteenth of the sizes in use: what the allocator keeps of freed pieces levels off with few rows.
arrays.SHARD_BYTES = streaming.CHUNK_BYTES = 2**21
storage.CACHE_BYTES = 2**22
rows, path, step = int(sys.argv[1]), sys.argv[2], 2000
rng = np.random.default_rng(0)
found = Descriptors.from_arrays(rng.normal(size=(step, 512)), rng.normal(size=(step, 4, 64)))

def parts():
    for start in range(0, rows, step):
        names = [f"image {i}" for i in range(start, start + step)]
        yield Described(jax.tree.map(np.copy, found), names, start + step)

def say_peak():
    with open("/proc/self/status") as file:
        print(*(line.split()[1] for line in file if line.startswith("VmHWM")))

with Gallery.create(path) as gallery:
    fill(gallery, parts())
say_peak()
gallery, queries = Gallery.open(path), found.take(slice(0, 300))
_, index = gallery.search(queries, 100)
say_peak()
got = rerank(queries, gallery, index, config=RerankConfig(method="chamfer"))
assert np.isfinite(got.structural).all() and gallery.ids([rows - 1]) == [f"image {rows - 1}"]
say_peak()
"""


@pytest.mark.skipif(
    not pathlib.Path("/proc/self/status").exists(), reason="reads the peak of memory on Linux"
)
def test_a_gallery_ten_times_larger_needs_the_same_memory(tmp_path):
    """Built, searched and reranked: 75 MB and 750 MB on the disk."""
    small, large = (
        [int(kilobytes) for kilobytes in finish(start(GROW, n, tmp_path / str(n)))[0].split()]
        for n in (30_000, 300_000)
    )
    assert max(large) <= 1.1 * max(small), f"kB after building, searching, reranking: {small}, {large}"
