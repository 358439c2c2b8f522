"""The program as people run it, on small folders and a small model with random weights."""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import eval as program_under_test
from tests import QUICK, ROOT
from tests.photos import image, write_folder
from vitjax.cli.session import only_run
from vitjax.config import DataConfig, EvalConfig, FiguresConfig, ModelConfig, RerankConfig
from vitjax.errors import UserError
from vitjax.retrieval import Gallery

SMALL = [
    "--config.weights=",
    "--config.model.name=vit_tiny_patch16_224",
    "--config.model.img_size=48",
    "--config.model.block=3",
    "--config.model.grid=0",
    "--config.batch_size=8",
    "--config.figures.count=1",
]


def start(config: str, workdir: pathlib.Path, *arguments: str, **env: str) -> subprocess.Popen:
    command = [sys.executable, "-W", "error::DeprecationWarning:vitjax", "eval.py"]
    command += [f"--config=configs/{config}.py", f"--workdir={workdir}", *SMALL]
    if not any("model.name" in argument for argument in arguments):
        command.append("--config.model.depth=4")  # no parameters are made that block 3 does not need
    command += arguments
    variables = os.environ | {"JAX_PLATFORMS": "cpu", "VITJAX_CACHE": str(ROOT / "runs" / "test-cache")}
    variables |= QUICK | env
    return subprocess.Popen(
        command, cwd=ROOT, env=variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def run(config: str, workdir: pathlib.Path, *arguments: str, **env: str) -> tuple[int, str, str]:
    process = start(config, workdir, *arguments, **env)
    out, err = process.communicate(timeout=240)
    return process.returncode, out, err


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return write_folder(tmp_path_factory.mktemp("images") / "shop", kinds=4, variants=4)


@pytest.fixture(scope="module")
def searched(folder, tmp_path_factory) -> tuple[pathlib.Path, dict]:
    """A folder searched in itself: the output folder and the last line on stdout."""
    workdir = tmp_path_factory.mktemp("runs") / "itself"
    code, out, err = run("folder", workdir, f"--config.data.gallery={folder}")
    assert code == 0, err
    return workdir, json.loads(out.splitlines()[-1])


def test_the_last_line_is_what_results_json_holds(searched):
    workdir, last = searched
    assert json.loads((workdir / "results.json").read_text()) == last


def test_results_have_the_promised_fields(searched):
    _, results = searched
    assert {
        "metrics", "seconds", "images_per_second", "device", "versions", "config", "skipped",
    } <= set(results)  # fmt: skip
    for order in ("pooled", "reranked"):
        metrics = results["metrics"][order]
        assert {"precision_at_1", "r_precision", "mean_average_precision_at_r", "recall_at_5"} <= set(metrics)
        assert 0.25 < metrics["precision_at_1"] <= 1
    assert results["queries"] == results["gallery"] == 16
    assert results["queries_found_in_gallery_and_left_out"] == 16
    assert results["config"]["model"]["img_size"] == 48


def test_explanations_come_with_numbers_and_the_page_says_them(searched):
    workdir, results = searched
    told = results["explanations"]
    assert told["pairs"] >= 16 * 5 and told["largest_additivity_error"] < 2e-6
    fell = told["deletion"]
    assert fell["pairs"] == 16
    gain = fell["without_random"] - fell["without_first"]
    assert fell["gain"] == pytest.approx(gain, abs=1e-9) and fell["gain"] > 0
    data = page_data(workdir)
    assert f"{fell['structural']:.3f} to {fell['without_first']:.3f}" in data["explained"]
    assert data["patches"]["q0"] == {"grid": [3, 3], "owner": None, "fine": [3, 3], "dropped": None}
    plans = [c["plan"] for query in data["queries"] for c in query["candidates"]]
    assert all(plan["size"] == [9, 9] for plan in plans) and len(plans) == told["pairs"]


def page_data(workdir: pathlib.Path) -> dict:
    text = (workdir / "report.html").read_text()
    return json.loads(text.split('id="data">')[1].split("</script>")[0])


@pytest.mark.slow
@pytest.mark.parametrize(("reducer", "dropped"), [("topk", True), ("tome", False)])
def test_the_page_knows_which_patches_were_dropped_or_merged(folder, tmp_path, reducer, dropped):
    arguments = [f"--config.data.gallery={folder}", f"--config.reduce.name={reducer}", "--config.reduce.r=1"]
    code, out, err = run("folder", tmp_path, *arguments)
    assert code == 0, err
    assert json.loads(out.splitlines()[-1])["explanations"]["largest_additivity_error"] < 2e-6
    for patches in page_data(tmp_path)["patches"].values():
        assert patches["grid"] == [3, 3] and patches["owner"]
        assert bool(patches["dropped"]) == dropped


def test_a_searched_folder_leaves_a_page_images_and_trec_files(searched):
    workdir, _ = searched
    page = (workdir / "report.html").read_text()
    assert "class_2/1.png" in page
    assert "random" in page.lower()
    assert len(list((workdir / "figures").glob("*.png"))) == 2
    lines = [line.split() for line in (workdir / "run.trec").read_text().splitlines()]
    assert len(lines) == 16 * 15
    first = [line for line in lines if line[0] == lines[0][0]]
    scores = [np.float32(line[4]) for line in first]
    assert scores == sorted(scores, reverse=True)
    assert len((workdir / "qrels.trec").read_text().splitlines()) == 16 * 3
    assert (workdir / "results.csv").read_text().startswith("model,")


@pytest.mark.slow
def test_a_second_run_in_the_same_folder_adds_a_row(folder, searched):
    workdir, _ = searched
    arguments = [f"--config.data.gallery={folder}", "--config.figures.count=0", "--config.figures.report=0"]
    code, *_ = run("folder", workdir, *arguments)
    assert code == 0
    assert len((workdir / "results.csv").read_text().splitlines()) == 3
    assert not (workdir / "report.html").exists() and not any((workdir / "figures").iterdir())


@pytest.mark.slow
def test_one_device_equals_eight_and_two_processes(folder, searched, tmp_path):
    workdir, _ = searched
    arguments = [f"--config.data.gallery={folder}", "--config.figures.count=0", "--config.figures.report=0"]
    eight = "--xla_force_host_platform_device_count=8"
    code, _, err = run("folder", tmp_path / "eight", *arguments, XLA_FLAGS=eight)
    assert code == 0, err
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    shared = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "XLA_FLAGS": ""}
    pair = [
        start("folder", tmp_path / "pair", *arguments, JAX_PROCESS_ID=str(rank), **shared)
        for rank in range(2)
    ]
    ends = [process.communicate(timeout=240) for process in pair]
    assert [process.returncode for process in pair] == [0, 0], ends
    assert json.loads(ends[0][0].splitlines()[-1])["device"]["processes"] == 2
    assert "{" not in ends[1][0], "only one process prints the result"
    alone = read_run(workdir / "run.trec")
    for other in ("eight", "pair"):
        again = read_run(tmp_path / other / "run.trec")
        assert again.keys() == alone.keys()
        gaps = [abs(again[key] - alone[key]) for key in alone]
        assert max(gaps) < 2e-5, f"{other}: scores differ by {max(gaps)}"


def read_run(path: pathlib.Path) -> dict[tuple[str, str], float]:
    lines = map(str.split, path.read_text().splitlines())
    return {(query, image): float(score) for query, _, image, _, score, _ in lines}


@pytest.mark.slow
def test_keep_scores_reach_the_gallery_and_the_transport(folder, tmp_path):
    fewer = [f"--config.data.gallery={folder}", "--config.figures.count=0", "--config.reduce.name=topk"]
    fewer += ["--config.rerank.marginals=keep", "--config.reduce.keep_ratio=0.5"]
    code, out, err = run("folder", tmp_path / "memory", *fewer)
    assert code == 0, err
    stored = [*fewer, f"--config.index.path={tmp_path / 'index'}"]
    code, out_stored, err = run("folder", tmp_path / "disk", *stored)
    assert code == 0, err
    kept = Gallery.open(tmp_path / "index").take(np.arange(16))
    np.testing.assert_allclose(kept.weights.sum(axis=1), 1, rtol=1e-5)
    assert np.ptp(kept.weights, axis=1).min() > 0
    gaps = [
        abs(json.loads(text.splitlines()[-1])["transport"]["largest_marginal_error"])
        for text in (out, out_stored)
    ]
    assert max(gaps) < 2e-3
    alike = [*fewer, "--config.rerank.marginals=uniform", f"--config.index.path={tmp_path / 'index'}"]
    code, _, err = run("folder", tmp_path / "other", *alike)
    assert code == 1 and "tokens_weighed" in err
    code, _, err = run("folder", tmp_path / "merged", *fewer, "--config.reduce.name=tome")
    assert code == 1 and "ranks no tokens" in err


@pytest.mark.slow
def test_when_to_rerank_is_learned_from_queries_that_are_not_judged(folder, tmp_path):
    quick = [f"--config.data.gallery={folder}", "--config.figures.count=0", "--config.figures.report=0"]
    code, out, err = run("folder", tmp_path / "learn", *quick, "--config.rerank.held_out=0.5")
    assert code == 0, err
    results = json.loads(out.splitlines()[-1])
    gate = results["gate"]
    assert gate["calibration"]["queries"] == gate["rest"]["queries"] == results["queries"] == 8
    assert gate["calibration"]["gated"] >= gate["calibration"]["base"]
    assert results["metrics"]["pooled"]["precision_at_1"] == gate["rest"]["base"]
    assert results["metrics"]["reranked"]["precision_at_1"] == gate["rest"]["gated"]
    assert gate["reranked"] == gate["rest"]["reranked"]
    assert results["config"]["rerank"]["weight"] == gate["weight"]
    asked = {line.split()[0] for line in (tmp_path / "learn" / "run.trec").read_text().splitlines()}
    assert len(asked) == 8
    given = [*quick, f"--config.rerank.gate={tmp_path / 'learn' / 'results.json'}"]
    code, out, err = run("folder", tmp_path / "use", *given)
    assert code == 0, err
    again = json.loads(out.splitlines()[-1])
    assert again["queries"] == 16
    assert {"signal", "threshold", "weight", "reranked"} == set(again["gate"])
    assert all(again["gate"][name] == gate[name] for name in ("signal", "threshold", "weight"))


@pytest.mark.slow
def test_places_are_judged_by_the_ground_truth_file(folder, tmp_path):
    queries = tmp_path / "queries"
    queries.mkdir()
    for kind in range(3):
        Image.fromarray(image(kind, 1)).save(queries / f"{kind}.png")
    (queries / "2b.jpg").write_bytes(b"not an image")
    truth = {"0": [0, 1, 2, 3], "1": [4, 5], "2": [8, 9], "3": [15]}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    code, out, err = run(
        "places", tmp_path / "out", f"--config.data.query={queries}", f"--config.data.gallery={folder}",
        f"--config.data.ground_truth={tmp_path / 'truth.json'}", "--config.rerank.method=chamfer",
    )  # fmt: skip
    assert code == 0, err
    results = json.loads(out.splitlines()[-1])
    assert results["metrics"]["pooled"]["queries"] == 3
    assert results["metrics"]["reranked"]["recall_at_1"] > 0.6
    (skipped,) = results["skipped"]
    assert (skipped["side"], skipped["index"], skipped["name"]) == ("query", 3, "2b.jpg")
    assert "2b.jpg" in err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "tokens"),
    [("swin_tiny_patch4_window7_224", "after block 7, 8 x 8"), ("cvt_13", "after block 7, 8 x 8")],
)
def test_the_demo_runs_with_another_model_and_says_that_its_weights_are_random(tmp_path, name, tokens):
    fields = {"name": name, "img_size": 224, "block": 7, "grid": 8}
    arguments = [f"--config.model.{field}={value}" for field, value in fields.items()]
    code, out, err = run("demo", tmp_path, *arguments, "--config.figures.report=8")
    assert code == 0, err
    assert "the weights are RANDOM" in err
    results = json.loads(out.splitlines()[-1])
    assert results["weights"] == {"source": "random", "report": []}
    assert 0 < results["metrics"]["reranked"]["precision_at_1"] < 1
    page = (tmp_path / "report.html").read_text()
    assert all(text in page for text in (name, tokens, '"random":true'))


@pytest.mark.slow
def test_one_unlabelled_image_finds_its_like_and_not_itself(folder, tmp_path):
    flat = tmp_path / "flat"
    flat.mkdir()
    for kind in range(3):
        for variant in range(2):
            Image.fromarray(image(kind, variant)).save(flat / f"{kind}_{variant}.png")
    code, out, err = run(
        "folder", tmp_path / "out", f"--config.data.query={flat / '1_0.png'}", f"--config.data.gallery={flat}"
    )
    assert code == 0, err
    results = json.loads(out.splitlines()[-1])
    assert results["metrics"] == {"pooled": {}, "reranked": {}}
    assert results["queries_found_in_gallery_and_left_out"] == 1
    order = [line.split()[2] for line in (tmp_path / "out" / "run.trec").read_text().splitlines()]
    assert order[0] == "1_1.png"
    assert "1_0.png" not in order
    asked, best = err.splitlines()[-7:-5]
    assert asked == "1_0.png: rank, score, image" and best.endswith("1_1.png")


@pytest.mark.usefixtures("cache")
def test_a_gallery_of_one_image_searched_in_itself_gives_a_page_without_candidates(tmp_path):
    (tmp_path / "one").mkdir()
    Image.fromarray(image(0, 0)).save(tmp_path / "one" / "only.png")
    config = tiny(tmp_path / "one", figures=FiguresConfig(count=1), rerank=RerankConfig())
    program_under_test.evaluate(config, str(tmp_path / "out"))
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert (results["queries"], results["gallery"], results["explanations"]["pairs"]) == (1, 1, 0)
    page = page_data(tmp_path / "out")
    assert page["queries"][0]["candidates"] == [] and page["subtitle"].startswith("1 query in 1 picture;")
    assert not (tmp_path / "out" / "figures").exists()


@pytest.mark.usefixtures("cache")
def test_labels_that_nothing_shares_are_said_and_measured_as_nothing(folder, tmp_path, capsys):
    (tmp_path / "asked" / "zebra").mkdir(parents=True)
    for i, place in enumerate(("zebra/1.png", "loose.png")):
        Image.fromarray(image(i, 0)).save(tmp_path / "asked" / place)
    config = tiny(folder, figures=FiguresConfig(count=0, report=1), rerank=RerankConfig())
    config.data.query = str(tmp_path / "asked")
    program_under_test.main(config, str(tmp_path / "out"))
    out, err = capsys.readouterr()
    results = json.loads(out.splitlines()[-1])
    line = "none of the 2 queries has a relevant image in the gallery: classes ., zebra against class_0"
    assert line in err and results["notes"][0].startswith(line) and "nan" not in err
    assert "1 of 2 images lie beside the sub-folders" in err
    assert set(results["metrics"]["pooled"].values()) == {None, 2, 0}
    page = page_data(tmp_path / "out")
    assert page["notes"] == results["notes"]
    assert page["subtitle"].startswith("2 queries in 16 pictures (this page shows the first 1 of 2);")
    assert results["explanations"]["deletion"]["gain_standard_error"] is None
    assert "standard error" not in page["explained"] and "of 1 first hit falls" in page["explained"]


def in_process(tmp_path: pathlib.Path, patch: pytest.MonkeyPatch, *arguments: str) -> int:
    """Exit code of the program on a folder, run by this process."""
    from vitjax.cli import flags

    patch.chdir(ROOT)
    patch.setenv("VITJAX_CACHE", str(tmp_path / "cache"))
    command = ["eval.py", "--config=configs/folder.py", f"--workdir={tmp_path / 'out'}", *SMALL, *arguments]
    return flags._run(program_under_test.main, EvalConfig, "", command)


def mistake(tmp_path: pathlib.Path, folder: pathlib.Path, kind: str) -> list[str]:
    """Arguments of a run with one mistake in it."""
    gallery = f"--config.data.gallery={folder}"
    (tmp_path / "empty").mkdir(exist_ok=True)
    (tmp_path / "text.json").write_text('{"0": "many"}')
    (tmp_path / "beyond.json").write_text('{"0": [99]}')
    (tmp_path / "file").write_text("")
    (tmp_path / "trained").mkdir()
    (tmp_path / "trained" / "run.json").write_text("{}")
    (tmp_path / "cut.safetensors").write_bytes(b"\x00\x01")
    return {
        "no gallery named": [],
        "gallery does not exist": ["--config.data.gallery=nowhere"],
        "no images": [f"--config.data.gallery={tmp_path / 'empty'}"],
        "truth is not a list": [gallery, f"--config.data.ground_truth={tmp_path / 'text.json'}"],
        "truth beyond the gallery": [gallery, f"--config.data.ground_truth={tmp_path / 'beyond.json'}"],
        "no such truth": [gallery, "--config.data.ground_truth=nowhere.json"],
        "no such model": [gallery, "--config.model.name=vit_tiny_patch16_225"],
        "no such block": [gallery, "--config.model.block=99"],
        "field out of range": [gallery, "--config.rerank.mass=0"],
        "no such weights": [gallery, "--config.weights=nowhere.pth"],
        "damaged weights": [gallery, f"--config.weights={tmp_path / 'cut.safetensors'}"],
        "workdir is a file": [gallery, f"--workdir={tmp_path / 'file'}"],
        "workdir of a training": [gallery, f"--workdir={tmp_path / 'trained'}"],
        "image size": [gallery, "--config.model.img_size=50"],
    }[kind]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("no gallery named", "--config.data.gallery"),
        ("gallery does not exist", "nowhere"),
        ("no images", "empty"),
        pytest.param("truth is not a list", "text.json", marks=pytest.mark.slow),
        pytest.param("truth beyond the gallery", "99", marks=pytest.mark.slow),
        pytest.param("no such truth", "nowhere.json", marks=pytest.mark.slow),
        ("no such model", "vit_tiny_patch16_224"),
        pytest.param("no such block", "99", marks=pytest.mark.slow),
        ("field out of range", "config.rerank.mass"),
        ("no such weights", "nowhere.pth"),
        ("damaged weights", "cut.safetensors"),
        ("workdir is a file", "file"),
        ("workdir of a training", "name another folder"),
        ("image size", "50"),
    ],
)
def test_a_mistake_is_one_plain_line_and_exit_1(tmp_path, folder, kind, words, capsys, monkeypatch):
    code = in_process(tmp_path, monkeypatch, *mistake(tmp_path, folder, kind))
    printed = capsys.readouterr()
    last = printed.err.splitlines()[-1]
    assert code == 1
    assert words in last
    assert last.startswith("eval.py: ")
    assert "Traceback" not in printed.err
    assert printed.out == ""


def test_a_strict_run_stops_at_the_first_bad_image(tmp_path, capsys, monkeypatch):
    bad = tmp_path / "bad"
    bad.mkdir()
    Image.fromarray(image(0, 0)).save(bad / "good.png")
    (bad / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    arguments = [f"--config.data.gallery={bad}", "--config.data.on_bad_image=error"]
    code = in_process(tmp_path, monkeypatch, *arguments, "--config.model.depth=4")
    printed = capsys.readouterr()
    assert code == 1
    assert "broken.png" in printed.err.splitlines()[-1]
    assert printed.out == ""


def tiny(folder: pathlib.Path, **parts) -> EvalConfig:
    """A search of a folder in itself, by a model of one narrow block."""
    quick = {"rerank": RerankConfig(method="pooled"), "figures": FiguresConfig(count=0, report=1)}
    return EvalConfig(
        batch_size=4,
        model=ModelConfig("vit_small_patch14_dinov2", img_size=28, embed_dim=8, depth=1, num_heads=2),
        data=DataConfig(gallery=str(folder)),
        **quick | parts,
    )


@pytest.fixture
def cache(monkeypatch) -> None:
    monkeypatch.setenv("VITJAX_CACHE", str(ROOT / "runs" / "test-cache"))


@pytest.mark.usefixtures("cache")
def test_a_page_or_a_table_that_cannot_be_written_loses_no_results(folder, tmp_path, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device", "report.html")

    table = tmp_path / "results.csv"
    table.write_bytes("model,weights\nvit,caf\u00e9.pth\n".encode("cp1252"))
    before = table.read_bytes()
    monkeypatch.setattr(program_under_test, "draw", full)
    with pytest.raises(OSError, match="No space left"):
        program_under_test.evaluate(tiny(folder), str(tmp_path))
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["metrics"]["reranked"]["queries"] == 16 and results["explanations"] is None
    assert len(read_run(tmp_path / "run.trec")) == 16 * 15
    assert table.read_bytes() == before
    assert (tmp_path / "results-2.csv").read_text().count("\n") == 2
    said = capsys.readouterr().err
    assert "save it as UTF-8; the row of this run is in results-2.csv" in said
    assert f"wrote {tmp_path / 'results.json'}" in said


def test_two_searches_in_one_folder_are_refused_and_a_bad_gate_is_told_first(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(program_under_test, "retrieve", lambda *_: pytest.fail("it began"))
    with only_run(tmp_path), pytest.raises(UserError, match="another run is at work there"):
        program_under_test.evaluate(tiny(folder), str(tmp_path))
    config = tiny(folder)
    config.rerank.gate = str(tmp_path / "nowhere.json")
    with pytest.raises(ValueError, match=r"^gate .*nowhere\.json"):
        program_under_test.evaluate(config, str(tmp_path))


CONFIG = """
from vitjax.config import *
def get_config(arg=""):
    model = ModelConfig("vit_small_patch14_dinov2", img_size=28, embed_dim=8, depth=1, num_heads=2)
    figures, rerank = FiguresConfig(count=0, report=0), RerankConfig(method="pooled")
    return EvalConfig(batch_size=2, model=model, rerank=rerank, figures=figures)
"""
HOSTILE = "a\x1b]0;title\x07\x9b2J\u202egnp"


def test_names_of_files_steer_no_terminal_and_the_home_folder_is_no_folder_of_its_sign(tmp_path):
    home, here = tmp_path / "home", tmp_path / "here"
    for kind in ("b" + HOSTILE, "other"):
        (home / "shop" / kind).mkdir(parents=True)
        Image.fromarray(image(0, 0)).save(home / "shop" / kind / f"{HOSTILE}.png")
        (home / "shop" / kind / f"bad{HOSTILE}.png").write_bytes(b"no image")
    here.mkdir()
    (here / "config.py").write_text(CONFIG)
    command = [sys.executable, ROOT / "eval.py", "--config=config.py", "--workdir=~/run"]
    command += ["--config.data.gallery=~/shop", "--config.index.path=~/index"]
    env = os.environ | {"HOME": str(home), "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    env |= QUICK | {"VITJAX_CACHE": str(ROOT / "runs" / "test-cache")}
    ended = subprocess.run(command, cwd=here, env=env, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert [path.name for path in here.iterdir()] == ["config.py"]
    assert {"shop", "run", "index"} <= {path.name for path in home.iterdir()}
    for text in (ended.stdout, ended.stderr):
        assert not {c for c in text if c in "\x1b\x07\x9b\u202e"}
    assert r"\x1b]0;title" in ended.stderr


@pytest.mark.skipif(
    not hasattr(os, "geteuid") or os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root"
)
def test_a_user_without_a_home_folder_searches_without_a_cache(folder, tmp_path):
    (tmp_path / "config.py").write_text(CONFIG)
    rights = "+dac_override,+dac_read_search"  # as another user this Python could not be read
    command = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups", f"--inh-caps={rights}"]
    command += [f"--ambient-caps={rights}", sys.executable, ROOT / "eval.py", "--config=config.py"]
    command += [f"--workdir={tmp_path / 'out'}", f"--config.data.gallery={folder}"]
    gone = ("HOME", "VITJAX_CACHE", "XDG_CACHE_HOME", "JAX_COMPILATION_CACHE_DIR")
    env = {name: value for name, value in os.environ.items() if name not in gone}
    env |= QUICK | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("set VITJAX_CACHE to one") == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.py", "out"]
