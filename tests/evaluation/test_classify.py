"""Task classify, as a function and as the program people run."""

import csv
import json

import jax
import numpy as np
import pytest

from tests.photos import write_folder
from tests.test_eval import run
from vitjax.config import DataConfig, EvalConfig, FiguresConfig, ModelConfig, ReduceConfig, validate
from vitjax.evaluation import classify

VIT = "vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_folder(tmp_path_factory.mktemp("images") / "shop", kinds=4, variants=3)


def asked(folder, model: str = VIT, size: int = 48, classes: int = 4, **reduce) -> EvalConfig:
    config = EvalConfig(
        task="classify",
        batch_size=8,
        model=ModelConfig(name=model, img_size=size, num_classes=classes, depth=2 * (model == VIT)),
        data=DataConfig(images=str(folder), resize="squash"),
        reduce=ReduceConfig(**reduce),
        figures=FiguresConfig(count=2),
    )
    validate(config)
    return config


def evaluate(config: EvalConfig, out) -> dict:
    out.mkdir(exist_ok=True)
    return classify.evaluate(config, out)


def read_predictions(path) -> dict[str, np.ndarray]:
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    return {name: np.array([int(line[name]) for line in lines]) for name in lines[0] if name != "image"}


def test_the_program_writes_one_row_per_amount_and_what_stands_behind_it(folder, tmp_path):
    arguments = [
        f"--config.data.images={folder}",
        "--config.model.num_classes=4",
        "--config.reduce.name=tome",
        "--config.reduce.sweep=(1, 2)",
    ]
    code, out, err = run("classify_deit", tmp_path, *arguments)
    assert code == 0, err
    results = json.loads(out.splitlines()[-1])
    assert json.loads((tmp_path / "results.json").read_text()) == results
    rows = results["rows"]
    assert [row["name"] for row in rows] == ["dense", "tome r=1", "tome r=2"]
    assert rows[0]["macs"] > rows[1]["macs"] > rows[2]["macs"]
    assert len({row["params"] for row in rows}) == 1
    assert rows[0]["same_as_dense"] == rows[0]["speed_up"] == 1
    found = read_predictions(tmp_path / "predictions.csv")
    truth = np.repeat(np.arange(4), 3)
    np.testing.assert_array_equal(found["class"], truth)
    for row in rows:
        assert row["top1"] == pytest.approx(np.mean(found[row["name"]] == truth))
        assert row["top5"] == 1, "of four classes one of five is always right"
        assert row["images_per_second"] > 0
    page = (tmp_path / "report.html").read_text()
    assert "tome r=2" in page and "class_0/0.png" in page and "<script" not in page
    assert len(list((tmp_path / "figures").glob("*_tokens.png"))) == 1
    assert (tmp_path / "results.csv").read_text().startswith("model,")
    assert "tome r=2" in err and "RANDOM" in err


def test_the_mean_of_the_classes_weighs_each_alike():
    truth = np.array([0, 0, 0, 0, 2, 2, 5])
    correct = np.array([1, 1, 1, 0, 0, 1, 0], bool)
    assert classify.per_class(correct, truth) == pytest.approx((3 / 4 + 1 / 2 + 0) / 3)


def test_a_split_of_a_training_run_says_which_images_are_classified(folder, tmp_path):
    held_out = ["class_0/2.png", "class_3/1.png"]
    (tmp_path / "split.json").write_text(json.dumps({"train": ["class_1/0.png"], "test": held_out}))
    config = asked(folder)
    config.data.split_file = str(tmp_path / "split.json")
    results = evaluate(config, tmp_path / "out")
    assert (results["images"], results["classes"]) == (2, 4)
    row, found = results["rows"][0], read_predictions(tmp_path / "out" / "predictions.csv")
    assert found["class"].tolist() == [0, 3]
    assert row["mean_class_accuracy"] == row["top1"] == np.mean(found["dense"] == found["class"])


def test_images_that_cannot_be_read_are_reported_and_not_counted(folder, tmp_path):
    broken = write_folder(tmp_path / "some", kinds=2, variants=2)
    (broken / "class_1" / "0.png").write_bytes(b"no image")
    results = evaluate(asked(broken, classes=2), tmp_path / "out")
    assert results["images"] == 3
    assert [skip["name"] for skip in results["skipped"]] == ["class_1/0.png"]
    found = read_predictions(tmp_path / "out" / "predictions.csv")
    np.testing.assert_array_equal(found["class"], [0, 0, 1])


def test_classes_may_be_named_in_the_model_s_own_order(folder, tmp_path):
    config = asked(folder)
    source = classify.open_source(config)
    plain = classify.true_classes(config, source, 4)
    np.testing.assert_array_equal(plain, np.repeat(np.arange(4), 3))
    listed = tmp_path / "classes.txt"
    listed.write_text("\n".join(["other", "class_3", "class_1", "class_0", "class_2"]))
    config.data.classes = str(listed)
    np.testing.assert_array_equal(classify.true_classes(config, source, 5), np.repeat([3, 2, 4, 1], 3))
    listed.write_text("class_3\nclass_1\n")
    with pytest.raises(ValueError, match="lacks 'class_0' and 1 more"):
        classify.true_classes(config, source, 4)


def test_a_page_or_a_table_that_cannot_be_written_loses_no_results(folder, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    (tmp_path / "results.csv").write_bytes(b"model;top1\n")
    monkeypatch.setattr(classify, "write_classes_page", full)
    with pytest.raises(OSError, match="No space left"):
        evaluate(asked(folder), tmp_path)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["images"] == 12 and len(results["rows"]) == 1
    assert (tmp_path / "results.csv").read_bytes() == b"model;top1\n"
    assert (tmp_path / "results-2.csv").exists() and (tmp_path / "predictions.csv").exists()


@pytest.mark.parametrize("classes", [3, 1000])
def test_a_number_of_classes_that_leaves_the_numbering_open_is_refused(folder, classes):
    config = asked(folder)
    with pytest.raises(ValueError, match="4 classes, the model knows"):
        classify.true_classes(config, classify.open_source(config), classes)


def test_a_model_that_cannot_reduce_so_is_told(folder):
    config = asked(folder, "swin_tiny_patch4_window7_224", name="tome")
    with pytest.raises(ValueError, match="'tome', which model 'swin_tiny"):
        classify.make_variants(config, 224)


def test_a_model_without_a_classifier_is_told(folder, tmp_path):
    with pytest.raises(ValueError, match="'vit_small_patch14_dinov2' has no classifier"):
        evaluate(asked(folder, "vit_small_patch14_dinov2", 28, classes=0), tmp_path)


@pytest.mark.parametrize(("name", "sweep"), [("tome", (1.5,)), ("topk", (1.5,)), ("", (0.0,))])
def test_amounts_out_of_range_are_named(folder, name, sweep):
    with pytest.raises(ValueError, match=r"config\.reduce\.sweep"):
        asked(folder, name=name, sweep=sweep)


@pytest.mark.slow
def test_a_ratio_of_one_is_the_dense_model_and_each_row_compiles_once(folder, tmp_path, caplog):
    config = asked(folder, name="topk", sweep=(1.0, 0.5))
    config.batch_size, config.figures.count = 4, 0  # three batches
    with jax.log_compiles(), caplog.at_level("WARNING"):
        results = evaluate(config, tmp_path)
    assert [row["same_as_dense"] for row in results["rows"][:2]] == [1, 1]
    assert sum(line.startswith("Compiling jit(best)") for line in caplog.messages) == 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("model", "reduce"),
    [
        ("dynamicvit_deit_tiny_patch16_224", ""),
        ("dynamicvit_lvvit_s", ""),
        ("dynamicswin_tiny_patch4_window7_224", ""),
        ("dynamic_convnext_tiny", ""),
        ("deit_tiny_patch16_224", "evit"),
        ("deit_tiny_patch16_224", "dynamicvit"),
        ("deit_tiny_patch16_224", "random"),
        ("lvvit_t", "tome"),
        ("swin_tiny_patch4_window7_224", None),
    ],
)
def test_every_kind_of_model_has_a_table_and_images(folder, tmp_path, model, reduce):
    size = 224 if "swin" in model else 64
    config = asked(folder, model, size, **({"name": reduce} if reduce else {}))
    results = evaluate(config, tmp_path)
    assert len(results["rows"]) == (1 if reduce is None else 2)
    assert all(np.isfinite(row["images_per_second"]) for row in results["rows"])
    if reduce is not None:
        assert results["rows"][1]["macs"] < results["rows"][0]["macs"]
        assert len(list((tmp_path / "figures").glob("*.png"))) == 2
    jax.clear_caches()
