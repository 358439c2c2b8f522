"""The program on miniature copies of the downloads, with a tiny model; answers are checked by hand."""

import io
import json
import pathlib
from contextlib import redirect_stderr, redirect_stdout

import numpy as np
import pytest

from tests import ROOT
from tests.data.layouts import write_cars, write_cub, write_msls, write_photo, write_sop
from vitjax.cli import flags
from vitjax.config import DataConfig, EvalConfig
from vitjax.evaluation.protocols import named_place_truth, near, open_protocol, protocol_truth, turned
from vitjax.retrieval.metrics.relevance import Truth
from vitjax.retrieval.reranking import rerank_candidates

SIZES = {"img_size": 48, "patch_size": 0, "embed_dim": 24, "depth": 2, "num_heads": 2, "block": -1}
TINY = [
    "--config.weights=", "--config.model.name=vit_tiny_patch16_224", "--config.model.grid=0",
    "--config.model.center=none", "--config.figures.count=0", "--config.figures.report=2",
    "--config.rerank.iterations=20", *(f"--config.model.{name}={value}" for name, value in SIZES.items()),
]  # fmt: skip
SWEEP = "rerank.mass=0.5,0.9 rerank.epsilon=0.05,0.1 rerank.weight=0,1"
MSLS_TRUTH = {"q0": {"d0"}, "q2": {"d1"}, "q5": {"d3"}, "q6": {"d6"}}
MSLS_CITY = {"q0": "cph", "q2": "cph", "q5": "cph", "q6": "sf"}


def call(config: str, workdir: pathlib.Path, root: pathlib.Path, *more: str) -> tuple[int, dict, str]:
    """Exit code, results, and what was printed on stderr."""
    import eval as program_under_test

    arguments = [f"--config=configs/{config}", f"--workdir={workdir}", *TINY, f"--config.data.images={root}"]
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(ROOT)
        patch.setenv("VITJAX_CACHE", str(ROOT / "runs" / "test-cache"))
        code = flags._run(program_under_test.main, EvalConfig, "", ["eval.py", *arguments, *more])
    return code, json.loads(out.getvalue() or "{}"), err.getvalue()


def first_hits(path: pathlib.Path) -> dict[str, list[str]]:
    """Ranked names of each query in a TREC run."""
    found: dict[str, list[str]] = {}
    for line in path.read_text().splitlines():
        query, _, name, *_ = line.split()
        found.setdefault(query, []).append(name)
    return found


@pytest.fixture(scope="module")
def birds(tmp_path_factory: pytest.TempPathFactory) -> tuple[pathlib.Path, dict, str, int]:
    """CUB with a sweep: the output folder, results, stderr, and how many programs the sweep compiled."""
    import eval as program_under_test

    folder = tmp_path_factory.mktemp("birds")
    more = [f"--config.sweep={SWEEP}", "--config.rerank.mass=0.9", "--config.seed=3"]
    sizes, compare = [], program_under_test.compare

    def counted(*arguments):
        sizes.append(rerank_candidates._match_block._cache_size())
        rows = compare(*arguments)
        sizes.append(rerank_candidates._match_block._cache_size())
        return rows

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(program_under_test, "compare", counted)
        code, results, err = call("cub200.py:swin", folder / "out", write_cub(folder, end="\r\n"), *more)
    assert code == 0, err
    return folder / "out", results, err, sizes[1] - sizes[0]


def test_birds_above_class_100_are_searched_in_themselves(birds):
    out, results, *_ = birds
    assert results["queries"] == results["gallery"] == results["queries_found_in_gallery_and_left_out"] == 9
    assert results["config"]["rerank"]["marginals"] == "cross_correlation"
    for order, file in (("pooled", "run_pooled.trec"), ("reranked", "run.trec")):
        metrics, ranked = results["metrics"][order], first_hits(out / file)
        kind = {name: name.split("/")[0] for name in ranked}
        right = {q: [kind[name] == kind[q] for name in names] for q, names in ranked.items()}
        assert metrics["precision_at_1"] == pytest.approx(np.mean([hits[0] for hits in right.values()]))
        assert metrics["recall_at_4"] == pytest.approx(np.mean([any(hits[:4]) for hits in right.values()]))
        assert metrics["r_precision"] == pytest.approx(
            np.mean([sum(hits[:2]) / 2 for hits in right.values()])
        )
        released = np.mean([sum(hits[:3]) / 3 for hits in right.values()])
        assert metrics["r_precision_released"] == pytest.approx(released)
        assert {"recall_at_2", "recall_at_8", "mean_average_precision_at_r_released"} <= set(metrics)


def test_a_sweep_reranks_the_same_descriptors_and_does_not_compile_for_numbers(birds):
    out, results, err, programs = birds
    assert programs == 0
    rows = results["sweep"]
    assert [tuple(row["fields"].values()) for row in rows[:3]] == [
        (0.5, 0.05, 0),
        (0.5, 0.05, 1),
        (0.5, 0.1, 0),
    ]
    assert len(rows) == 8
    (same,) = (row for row in rows if tuple(row["fields"].values()) == (0.9, 0.05, 1))
    assert same["metrics"] == results["metrics"]
    assert same["intervals"] == results["intervals"]
    assert len({json.dumps(row["metrics"]["reranked"]) for row in rows}) > 1
    assert "sweep, %" in err
    low, high = results["intervals"]["reranked"]["recall_at_2"]
    assert low <= results["metrics"]["reranked"]["recall_at_2"] <= high
    assert results["intervals"]["seed"] == 3
    assert json.loads((out / "results.json").read_text())["sweep"] == rows


def test_each_city_is_searched_for_itself(tmp_path):
    root = write_msls(tmp_path)
    code, results, err = call("msls.py:cvt", tmp_path / "out", root)
    assert code == 0, err
    assert (results["queries"], results["gallery"]) == (4, 5)
    for order, file in (("pooled", "run_pooled.trec"), ("reranked", "run.trec")):
        ranked = {
            pathlib.Path(query).stem: names for query, names in first_hits(tmp_path / "out" / file).items()
        }
        assert ranked.keys() == MSLS_TRUTH.keys()
        right = {}
        for query, names in ranked.items():
            assert {name.split("/")[0] for name in names} == {MSLS_CITY[query]}
            right[query] = [pathlib.Path(name).stem in MSLS_TRUTH[query] for name in names]
        assert results["metrics"][order]["recall_at_1"] == pytest.approx(
            np.mean([hits[0] for hits in right.values()])
        )
        for city, count in (("cph", 3), ("sf", 1)):
            metrics = results["groups"][city]["metrics"][order]
            theirs = [hits for query, hits in right.items() if MSLS_CITY[query] == city]
            assert metrics["queries"] == count
            assert metrics["map_at_5"] == pytest.approx(np.mean([1 / (1 + h.index(True)) for h in theirs]))
    assert "cph" in err


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config", "write", "queries"),
    [
        ("cars196.py:cvt", write_cars, 6),
        ("cars196.py:deit", lambda root: write_cars(root, devkit=True), 6),
        ("sop.py:resnet", write_sop, 6),
    ],
)
def test_cars_and_products_go_through_the_program(tmp_path, config, write, queries):
    code, results, err = call(config, tmp_path / "out", write(tmp_path))
    assert code == 0, err
    assert results["queries"] == results["gallery"] == queries
    assert results["metrics"]["reranked"]["queries_counted"] == queries
    assert (tmp_path / "out" / "report.html").is_file()


@pytest.mark.slow
def test_a_protocol_is_searched_from_an_index_on_disk(tmp_path):
    for name, config, root in (("c", "cub200.py:swin", write_cub), ("m", "msls.py:cvt", write_msls)):
        folder, index = root(tmp_path / name), f"--config.index.path={tmp_path / name / 'index'}"
        plain = call(config, tmp_path / name / "plain", folder)[1]
        kept = call(config, tmp_path / name / "kept", folder, index)[1]
        again = call(config, tmp_path / name / "again", folder, index)[1]
        assert kept["metrics"] == again["metrics"]
        assert kept["metrics"]["pooled"] == plain["metrics"]["pooled"]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ([], r"Pelican_0001_101.jpg' does not exist"),
        (["--config.data.images="], "give a folder (--config.data.images)"),
        (["--config.task=classify"], "config.data.source is 'cub', which task 'classify' cannot use"),
        (["--config.data.subtask=night"], "config.data.subtask is 'night'"),
    ],
)
def test_a_mistake_is_one_plain_line(tmp_path, more, words):
    root = write_cub(tmp_path)
    (root / "images" / "101.Pelican" / "Pelican_0001_101.jpg").unlink()
    code, _, err = call("cub200.py", tmp_path / "out", root, *more)
    assert code == 1
    assert words in err.splitlines()[-1]


def test_right_answers_lie_within_25_metres_the_distance_included(tmp_path):
    gallery, queries = open_protocol(DataConfig(source="msls", images=str(write_msls(tmp_path))))
    names = [[pathlib.Path(gallery.names[i]).stem for i in rows] for rows in near(queries, gallery)]
    found = dict(zip([pathlib.Path(name).stem for name in queries.names], map(set, names), strict=True))
    assert found == MSLS_TRUTH  # q1 is 25.0008 m away; d2, a panorama, and d5, in another city, are nearer


def test_a_direction_may_be_asked_for(tmp_path):
    data = DataConfig(source="msls", images=str(write_msls(tmp_path)), angle=40.0)
    _, queries = open_protocol(data)
    assert [pathlib.Path(name).stem for name in queries.names] == ["q0", "q5"]
    np.testing.assert_allclose(
        turned(10.0, np.array([350.0, 190, 10, 191, np.nan])), [20, 180, 0, 179, np.inf]
    )


def test_one_city_alone_and_a_search_without_answers(tmp_path):
    root = str(write_msls(tmp_path))
    gallery, queries = open_protocol(DataConfig(source="msls", images=root, cities="sf"))
    assert (len(gallery), len(queries)) == (2, 1)
    with pytest.raises(ValueError, match="no query has a photo within 25 m"):
        open_protocol(DataConfig(source="msls", images=root, cities="sf", angle=1.0))


def places(tmp_path: pathlib.Path) -> list[str]:
    """Three queries and four photos, named by where they were taken; arguments of a search."""
    names = {
        "query": ["@10.0@0@10@S@a@.png", "@200@0@10@S@b@.png", "@900@0@10@S@c@.png"],
        "gallery": ["@0@0@10@S@.png", "@30@0@10@S@.png", "@60@0@10@S@.png", "@201@0@10@S@.png"],
    }
    for side, files in names.items():
        (tmp_path / side).mkdir()
        for i, name in enumerate(files):
            write_photo(tmp_path / side / name, i, 0)
    sides = [f"--config.data.{side}={tmp_path / side}" for side in names]
    return [*sides, "--config.rerank.method=pooled", "--config.figures.report=0"]


@pytest.mark.parametrize("known", ["places", "names"])
def test_a_folder_of_photos_is_judged_by_places_or_names_in_a_file(tmp_path, known):
    more = places(tmp_path)
    if known == "names":
        truth = {"@10.0@0@10@S@a@.png": ["@0@0@10@S@.png", "@30@0@10@S@.png"]}
        truth |= {"@200@0@10@S@b@.png": ["@201@0@10@S@.png"]}
        (tmp_path / "truth.json").write_text(json.dumps(truth))
        more.append(f"--config.data.ground_truth={tmp_path / 'truth.json'}")
    code, results, err = call("places.py", tmp_path / "out", tmp_path, *more)
    assert code == 0, err
    assert sorted(map(str.split, (tmp_path / "out" / "qrels.trec").read_text().splitlines())) == [
        ["@10.0@0@10@S@a@.png", "0", "@0@0@10@S@.png", "1"],
        ["@10.0@0@10@S@a@.png", "0", "@30@0@10@S@.png", "1"],
        ["@200@0@10@S@b@.png", "0", "@201@0@10@S@.png", "1"],
    ]
    assert (results["queries"], results["queries_counted"]) == (3, 2)
    assert "1 of 3 queries has no relevant item in the gallery" in results["notes"][0]
    assert ("recall_at_20" in results["metrics"]["pooled"]) == (known == "places")


def test_zones_part_places_only_where_both_names_say_theirs():
    names = ["@500@60@31@a@.jpg", "@500@60@32@a@.jpg", "@500@60@@a@.jpg"]
    found = named_place_truth(DataConfig(), names, names, np.full(3, -1))
    assert [rows.tolist() for rows in found.positives] == [[0, 2], [1, 2], [0, 1, 2]]


@pytest.mark.parametrize(
    ("source", "ks"), [("cub", (1, 2, 4, 8)), ("cars", (1, 2, 4, 8)), ("sop", (1, 10, 100))]
)
def test_each_protocol_has_the_ranks_of_its_papers_and_their_released_metrics(source, ks):
    truth = Truth.from_labels(np.array([0, 0]), np.array([0, 0]), np.arange(2))
    found = protocol_truth(DataConfig(source=source), truth)
    assert found.ks == ks and found.released


def test_positions_in_the_names_of_one_side_only_are_said(capsys):
    own = np.full(1, -1)
    assert named_place_truth(DataConfig(), ["@10@0@a@.png"], ["plain.png"], own) is None
    assert "names of the queries say UTM positions, those of the gallery do not" in " ".join(
        capsys.readouterr().err.split()
    )
    assert named_place_truth(DataConfig(), ["a.png"], ["plain.png"], own) is None
    assert not capsys.readouterr().err
