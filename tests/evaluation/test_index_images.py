"""Images into a gallery, and the program that does it."""

import contextlib
import copy
import dataclasses
import json
import pathlib
import random
import shutil
import socket
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import vitjax
from tests import ROOT
from tests.photos import write_folder
from tests.retrieval.cases import tree
from tests.test_eval import SMALL, read_run, run, start
from vitjax import config as configuration
from vitjax import reranker as front
from vitjax.cli import flags
from vitjax.data import FolderSource, ImageError
from vitjax.evaluation.index_images import index_images
from vitjax.retrieval import Gallery, GalleryError
from vitjax.retrieval.gallery import manifest
from vitjax.sparsify import make_reducer

CONFIG = configuration.EvalConfig(
    model=configuration.ModelConfig(name="vit_tiny_patch16_224", img_size=48, block=2),
    rerank=configuration.RerankConfig(method="chamfer"),
)


@pytest.fixture(scope="module")
def reranker() -> vitjax.Reranker:
    model = vitjax.build("vit_tiny_patch16_224", depth=3, img_size=48, num_classes=0)
    variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 48, 48, 3)))
    return vitjax.Reranker(model, variables, CONFIG)


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
    photos = write_folder(tmp_path / "photos", kinds=4, variants=4)
    (photos / "class_1" / "1.png").write_bytes(b"no image")
    (photos / "class_3" / "3.png").write_bytes(b"nor this")
    return photos


def index(reranker, folder, path, **options):
    return index_images(reranker, FolderSource(folder), path, batch_size=4, on_bad_image="skip", **options)


def test_a_gallery_holds_what_describe_gives(reranker, folder, tmp_path):
    gallery, rows, skipped = index(reranker, folder, tmp_path / "g")
    found, want_rows, want_skipped = reranker.describe(
        FolderSource(folder), batch_size=4, on_bad_image="skip"
    )
    np.testing.assert_array_equal(rows, want_rows)
    assert skipped == want_skipped and [x.index for x in skipped] == [5, 15]
    names = FolderSource(folder).names
    assert gallery.ids() == [names[i] for i in rows] and gallery.reached == 16
    stored = gallery.take(slice(None))
    np.testing.assert_array_equal(stored.pooled, found.pooled)
    np.testing.assert_allclose(stored.tokens, found.tokens, rtol=0, atol=3e-4)


def test_images_may_come_one_by_one_and_with_a_bar(reranker, tmp_path, capsys):
    images = np.random.default_rng(0).integers(0, 256, (3, 60, 60, 3), np.uint8)
    gallery, rows, _ = index_images(reranker, iter(images), tmp_path / "g", progress=True)
    assert "describing" in capsys.readouterr().err
    assert gallery.ids() == ["0", "1", "2"] and rows.tolist() == [0, 1, 2]


def test_what_is_described_is_not_described_again(reranker, folder, tmp_path):
    index(reranker, folder, tmp_path / "g")
    before = tree(tmp_path / "g")

    def never(batches, count):
        raise AssertionError("images are described again")

    gallery, rows, skipped = index(reranker, folder, tmp_path / "g", progress=never)
    assert len(gallery) == len(rows) == 14 and len(skipped) == 2
    assert tree(tmp_path / "g") == before
    with pytest.raises(ImageError, match=r"class_1/1\.png"):
        index_images(reranker, FolderSource(folder), tmp_path / "g")


class Killed(BaseException):
    pass


@pytest.mark.parametrize("batches", [0, 1, 2])
def test_a_build_cut_off_goes_on_and_ends_the_same(reranker, folder, tmp_path, batches):
    index(reranker, folder, tmp_path / "whole")

    def cut(steps, count):
        for i, step in enumerate(steps):
            if i == batches + 1:  # one batch is on its way to the device
                raise Killed
            yield step

    with contextlib.suppress(Killed):
        index(reranker, folder, tmp_path / "g", progress=cut)
    reached = Gallery.open(tmp_path / "g").reached
    assert reached in range(0, 4 * batches + 1, 4)
    left = []

    def counted(steps, count):
        left.append(count)
        return steps

    index(reranker, folder, tmp_path / "g", progress=counted)
    assert left == [(16 - reached) // 4]
    assert tree(tmp_path / "g") == tree(tmp_path / "whole")


def test_a_gallery_of_other_images_model_or_type_is_refused_and_kept(reranker, folder, tmp_path):
    index(reranker, folder, tmp_path / "g")
    before = tree(tmp_path / "g")
    with pytest.raises(GalleryError, match="stored is 'float16' there, 'int8' here"):
        index(reranker, folder, tmp_path / "g", dtype="int8")
    model = dataclasses.replace(CONFIG.model, block=1)
    other = vitjax.Reranker(reranker.model, reranker.variables, dataclasses.replace(CONFIG, model=model))
    with pytest.raises(GalleryError, match=r"model\.block is 2 there, 1 here"):
        index(other, folder, tmp_path / "g")
    weights = {
        "params": {**reranker.variables["params"], "cls_token": reranker.variables["params"]["cls_token"] + 1}
    }
    with pytest.raises(GalleryError, match="weights is "):
        index(vitjax.Reranker(reranker.model, weights, CONFIG), folder, tmp_path / "g")
    pruned = reranker.model.clone(reducer=make_reducer("topk", keep_ratio=0.5))
    with pytest.raises(GalleryError, match=r"model\.reducer"):
        index(vitjax.Reranker(pruned, reranker.variables, CONFIG), folder, tmp_path / "g")
    shutil.copy(folder / "class_0" / "0.png", folder / "class_0" / "9.png")
    with pytest.raises(GalleryError, match=r"images\.count is 16 there, 17 here; .*or build another"):
        index(reranker, folder, tmp_path / "g")
    assert tree(tmp_path / "g") == before


def test_a_image_is_ranked_in_a_gallery_as_among_the_images_themselves(reranker, folder, tmp_path):
    gallery, rows, _ = index(reranker, folder, tmp_path / "g")
    source = FolderSource(folder)
    query = source.path(0)
    hits = reranker.rank(query, gallery, top_k=3, return_matches=True)
    images = [source.path(i) for i in rows.tolist()]
    want = reranker.rank(query, images, ids=gallery.ids(), top_k=3, batch_size=4)
    assert [hit.corpus_id for hit in hits] == [hit.corpus_id for hit in want]
    assert hits[0].corpus_id == "class_0/0.png" and hits[0].matches
    np.testing.assert_allclose([hit.score for hit in hits], [hit.score for hit in want], atol=1e-3)

    class Last:
        def search(self, queries, k):
            return np.zeros((1, 2), np.float32), np.array([[13, -1]], np.int32)

    (only,) = reranker.rank(query, gallery, searcher=Last())
    assert only.corpus_id == gallery.ids([13])[0]


def centred(reranker, photos: pathlib.Path | str = "", **rule) -> vitjax.Reranker:
    """The same model with a centre and a price."""
    config = dataclasses.replace(
        CONFIG,
        model=dataclasses.replace(CONFIG.model, center="position"),
        data=dataclasses.replace(CONFIG.data, center=str(photos)),
        rerank=configuration.RerankConfig(mass="auto", tau=1.0, **rule),
    )
    return vitjax.Reranker(reranker.model, reranker.variables, config, keep_measured=False)


def never(*_):
    raise AssertionError("measured again")


def test_a_query_of_a_gallery_takes_centre_and_price_from_it(reranker, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(front, "SYNTHETIC_IMAGES", 2)
    builder = centred(reranker)
    index(builder, folder, tmp_path / "g")
    stored = Gallery.open(tmp_path / "g").measured
    assert stored is not None and stored.center is not None and builder.center is not None
    np.testing.assert_array_equal(stored.center, builder.center)
    assert stored.price == builder.rule.price > 0 and stored.subspace is None
    query = FolderSource(folder).path(0)
    want = builder.rank(query, Gallery.open(tmp_path / "g"), top_k=3)
    monkeypatch.setattr(front, "SyntheticSource", never)
    reader = centred(reranker)
    assert reader.rank(query, Gallery.open(tmp_path / "g"), top_k=3) == want
    index(centred(reranker), folder, tmp_path / "g")  # nor does a build that resumes
    with pytest.raises(AssertionError, match="measured again"):
        _ = reader.center  # of its own it still has none


def test_two_galleries_are_each_searched_with_their_own_centre(reranker, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(front, "SYNTHETIC_IMAGES", 2)
    photos = tmp_path / "few"
    shutil.copytree(folder / "class_2", photos)
    of_leaves, of_photos = centred(reranker), centred(reranker, photos)
    index(of_leaves, folder, tmp_path / "leaves")
    index(of_photos, folder, tmp_path / "photos_centre")
    query = FolderSource(folder).path(0)
    for builder, name in ((of_leaves, "leaves"), (of_photos, "photos_centre"), (of_leaves, "leaves")):
        gallery = Gallery.open(tmp_path / name)
        assert of_leaves.rank(query, gallery) == builder.rank(query, gallery)
    with pytest.raises(GalleryError, match="center is "):
        of_photos.rank(query, Gallery.open(tmp_path / "leaves"))
    shutil.rmtree(photos)  # the gallery holds what was measured on them
    assert centred(reranker).rank(query, Gallery.open(tmp_path / "photos_centre"))


def test_a_damaged_centre_of_a_gallery_is_refused_by_name(reranker, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(front, "SYNTHETIC_IMAGES", 2)
    index(centred(reranker), folder, tmp_path / "g")
    file = tmp_path / "g" / "measured.npz"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    for _ in range(2):
        with pytest.raises(GalleryError, match=r"measured\.npz is damaged or missing"):
            centred(reranker).rank(FolderSource(folder).path(0), Gallery.open(tmp_path / "g"))
        file.unlink(missing_ok=True)


def test_a_gallery_without_a_centre_keeps_none_and_an_older_one_is_read(reranker, folder, tmp_path):
    gallery, *_ = index(reranker, folder, tmp_path / "g")
    assert gallery.measured is None and not (tmp_path / "g" / "measured.npz").exists()
    file = tmp_path / "g" / "manifest.json"
    older = json.loads(file.read_text())["gallery"]
    del older["measured"]
    last = file.with_name("committed.json")
    committed = json.loads(last.read_text())["gallery"] | {"manifest": manifest._digest(older)}
    for path, body in ((file, older), (last, committed)):
        path.write_bytes(manifest._text(body, 2, manifest._digest(body)))
    assert Gallery.open(tmp_path / "g").measured is None
    assert reranker.rank(FolderSource(folder).path(0), Gallery.open(tmp_path / "g"))


def others(reranker) -> dict[str, tuple[vitjax.Reranker, str]]:
    """Rerankers that describe otherwise, each in one way, and what is said of them."""
    model, variables = reranker.model, reranker.variables

    def changed(name: str, **fields) -> vitjax.Reranker:
        part = dataclasses.replace(getattr(CONFIG, name), **fields)
        return vitjax.Reranker(model, variables, dataclasses.replace(CONFIG, **{name: part}))

    params = variables["params"]
    weights = {"params": {**params, "cls_token": params["cls_token"] + 1}}
    pruned = model.clone(reducer=make_reducer("topk", keep_ratio=0.5))
    return {
        "block": (changed("model", block=1), r"model\.block is 2 there, 1"),
        "grid": (changed("model", grid=2), r"model\.grid is 0 there, 2"),
        "centre": (changed("model", center="position"), r"model\.center is 'none' there, 'position'"),
        "smooth": (changed("model", smooth=3), r"model\.smooth is 1 there, 3"),
        "resize": (changed("data", resize="squash"), r"input\.\w+ is "),
        "weights": (vitjax.Reranker(model, weights, CONFIG), "weights is "),
        "model": (vitjax.Reranker(pruned, variables, CONFIG), r"model\.reducer"),
    }


def test_a_gallery_that_another_recipe_described_is_refused_at_every_door(reranker, folder, tmp_path):
    gallery, *_ = index(reranker, folder, tmp_path / "g")
    query = FolderSource(folder).path(0)
    same = vitjax.Reranker(reranker.model, reranker.variables, CONFIG)

    class Elsewhere:  # a searcher that knows what described its rows
        def __init__(self, recipe):
            self.recipe = recipe

        def search(self, queries, k):
            return np.zeros((1, 1), np.float32), np.zeros((1, 1), np.int32)

    assert same.rank(query, Gallery.open(tmp_path / "g"), searcher=Elsewhere(gallery.recipe))
    for name, (other, told) in others(reranker).items():
        with pytest.raises(GalleryError, match=f"made by another recipe: .*{told}"):
            other.rank(query, Gallery.open(tmp_path / "g"))
        with pytest.raises(GalleryError, match=f"the searcher searches was made by another recipe: .*{told}"):
            other.rank(query, unknown(tmp_path / name, gallery), searcher=Elsewhere(gallery.recipe))
        with pytest.raises(GalleryError, match=told):
            index(other, folder, tmp_path / "g")


def unknown(path: pathlib.Path, gallery: Gallery) -> Gallery:
    """The same rows in a gallery that says nothing of what described them."""
    with Gallery.create(path, recipe={"model": "mine"}) as copied:
        copied.add(gallery.take(slice(None)), gallery.ids())
    return copied


def test_a_gallery_whose_recipe_says_nothing_we_know_is_ranked(reranker, folder, tmp_path):
    gallery, *_ = index(reranker, folder, tmp_path / "g")
    query = FolderSource(folder).path(0)
    hits = reranker.rank(query, unknown(tmp_path / "copied", gallery), top_k=2)
    assert [hit.corpus_id for hit in hits] == [
        hit.corpus_id for hit in reranker.rank(query, gallery, top_k=2)
    ]


def test_a_searcher_of_another_gallery_or_an_earlier_commit_is_refused(reranker, folder, tmp_path):
    gallery, *_ = index(reranker, folder, tmp_path / "g")
    query, copied = FolderSource(folder).path(0), unknown(tmp_path / "copied", gallery)

    assert reranker.rank(query, gallery, searcher=gallery)
    copied.add(gallery.take([0]), ["new"])
    with pytest.raises(GalleryError, match="the searcher was made of another gallery"):
        reranker.rank(query, gallery, searcher=copied)


def test_no_image_that_can_be_read_is_an_error(reranker, tmp_path):
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "a.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"none of 1 images could be read: .*a\.png"):
        index(reranker, tmp_path / "bad", tmp_path / "g")


@pytest.fixture
def evaluate(reranker, monkeypatch, capsys):
    """The program in this process, with the model of these tests: exit code, stdout, stderr."""
    import eval as program_under_test

    def from_config(config):
        assert config.model == CONFIG.model
        mine = copy.copy(reranker)  # with all that it has compiled
        mine.config = config
        return mine

    root = ROOT
    monkeypatch.chdir(root)
    monkeypatch.setenv("VITJAX_CACHE", str(root / "runs" / "test-cache"))
    monkeypatch.setattr(program_under_test.Reranker, "from_config", from_config)

    def called(out: pathlib.Path, *arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        line = ["eval.py", "--config=configs/folder.py", f"--workdir={out}", *SMALL]
        line += ["--config.model.center=none", *arguments]
        code = flags._run(program_under_test.main, configuration.EvalConfig, "", line)
        return code, *capsys.readouterr()

    return called


def test_the_program_builds_an_index_and_searches_it_later(evaluate, folder, tmp_path):
    shared = [
        f"--config.data.gallery={folder}",
        "--config.batch_size=4",
        "--config.figures.report=0",
        f"--config.model.block={CONFIG.model.block}",
        "--config.rerank.method=chamfer",
    ]
    kept = [*shared, f"--config.index.path={tmp_path / 'index'}"]
    code, out, err = evaluate(tmp_path / "a", *kept, "--config.task=index")
    assert code == 0, err
    built = json.loads(out.splitlines()[-1])
    assert built["task"] == "index" and built["gallery"] == built["described_now"] == 14
    assert len(built["skipped"]) == 2 and (tmp_path / "a" / "results.json").exists()
    assert "holds 14 described images, 0 of them from before" in " ".join(err.split())
    code, out, err = evaluate(tmp_path / "b", *kept)
    assert code == 0, err
    searched = json.loads(out.splitlines()[-1])
    assert searched["images_per_second"] == 0 and searched["gallery"] == 14
    assert [x["index"] for x in searched["skipped"]] == [5, 15]
    code, out, err = evaluate(tmp_path / "c", *shared, "--config.figures.count=0")
    assert code == 0, err
    direct = json.loads(out.splitlines()[-1])
    for name, value in direct["metrics"]["pooled"].items():
        assert searched["metrics"]["pooled"][name] == pytest.approx(value, abs=1e-6)
    kept_run, direct_run = (read_run(tmp_path / x / "run.trec") for x in "bc")
    assert kept_run.keys() == direct_run.keys()
    assert max(abs(kept_run[pair] - direct_run[pair]) for pair in direct_run) < 1e-3


def test_the_program_says_in_one_line_what_keeps_it_from_using_an_index(evaluate, folder, tmp_path):
    shared = [
        f"--config.data.gallery={folder}",
        "--config.task=index",
        f"--config.model.block={CONFIG.model.block}",
    ]
    code, _, err = evaluate(tmp_path / "d", *shared)
    assert code == 1 and "config.index.path is empty" in err.splitlines()[-1]
    kept = [*shared, f"--config.index.path={tmp_path / 'index'}"]
    Gallery.create(tmp_path / "index", recipe={"model": "another"}).close()
    code, _, err = evaluate(tmp_path / "d", *kept)
    assert code == 1 and "was made by another recipe: center is 'nothing' there" in err.splitlines()[-1]
    (tmp_path / "index" / "manifest.json").write_text("{}")
    code, _, err = evaluate(tmp_path / "d", *kept)
    assert code == 1 and "manifest.json is damaged" in err.splitlines()[-1]


@pytest.mark.slow
def test_two_processes_build_the_gallery_that_one_builds(folder, tmp_path):
    shared, alone = [f"--config.data.gallery={folder}", "--config.task=index"], {"XLA_FLAGS": ""}
    code, _, err = run(
        "folder", tmp_path / "a", *shared, f"--config.index.path={tmp_path / 'one'}", XLA_FLAGS=""
    )
    assert code == 0, err
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    env = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"} | alone
    kept = [*shared, f"--config.index.path={tmp_path / 'two'}"]
    for _ in range(2):  # the second time nothing is left to do
        pair = [start("folder", tmp_path / "b", *kept, JAX_PROCESS_ID=str(rank), **env) for rank in range(2)]
        ends = [process.communicate(timeout=240) for process in pair]
        assert [process.returncode for process in pair] == [0, 0], ends
    one, two = (Gallery.open(tmp_path / name) for name in ("one", "two"))
    assert one.ids() == two.ids() and len(one) == 14
    np.testing.assert_allclose(one.take(slice(None)).pooled, two.take(slice(None)).pooled, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_a_build_killed_at_any_moment_ends_with_the_same_files(tmp_path):
    photos = write_folder(tmp_path / "photos", kinds=40, variants=10)
    shared = [f"--config.data.gallery={photos}", "--config.task=index", "--config.batch_size=4"]
    code, _, err = run("folder", tmp_path / "a", *shared, f"--config.index.path={tmp_path / 'whole'}")
    assert code == 0, err
    kept, moments, seen = [*shared, f"--config.index.path={tmp_path / 'parts'}"], random.Random(0), set()
    for _ in range(6):
        process = start("folder", tmp_path / "b", *kept)
        began = len(Gallery.open(tmp_path / "parts")) if seen else 0
        while process.poll() is None:
            if Gallery.exists(tmp_path / "parts") and len(Gallery.open(tmp_path / "parts")) > began:
                break
            time.sleep(0.01)
        time.sleep(moments.random() * 0.3)
        process.kill()
        process.communicate()
        seen.add(len(Gallery.open(tmp_path / "parts")))
    assert len(seen) > 1, "no kill came while it was building"
    code, _, err = run("folder", tmp_path / "b", *kept)
    assert code == 0, err
    assert tree(tmp_path / "parts") == tree(tmp_path / "whole")
