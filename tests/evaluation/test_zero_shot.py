"""Classification by the names of the classes, as a row of task classify."""

import csv

import numpy as np
import pytest
from PIL import Image

from tests.compiled import compiled
from tests.text import towers
from tests.text.towers import tokenizer_file
from vitjax import build_zero_shot_classifier, load_tokenizer
from vitjax.config import EvalConfig, ReduceConfig
from vitjax.data.transforms import preprocess
from vitjax.errors import UserError
from vitjax.evaluation import classify
from vitjax.models import build
from vitjax.models.from_config import init_variables

__all__ = ["tokenizer_file"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return towers.images(tmp_path_factory.mktemp("images"))


def asked(tokenizer: str, folder, **data) -> EvalConfig:
    config = towers.config(tokenizer, "model", images=str(folder), **data)
    config.task, config.figures.count = "classify", 0
    return config


def evaluate(config: EvalConfig, out) -> dict:
    out.mkdir()
    return classify.evaluate(config, out)


def test_rows_say_what_the_class_names_say_dense_and_with_fewer_tokens(tokenizer_file, folder, tmp_path):
    (tmp_path / "templates.txt").write_text("a {}\n\na red {}.\n")
    config = asked(tokenizer_file, folder, templates=str(tmp_path / "templates.txt"))
    config.reduce = ReduceConfig(name="evit", keep_ratio=0.5)
    results = evaluate(config, tmp_path / "out")
    rows = results["rows"]
    assert [row["name"] for row in rows] == ["zero_shot", "zero_shot evit 0.5"]
    assert rows[0]["macs"] > rows[1]["macs"] and rows[0]["same_as_dense"] == 1
    assert (results["classes"], results["images"]) == (3, 6)
    assert results["zero_shot"]["templates"] == ["a {}", "a red {}."]
    assert results["zero_shot"]["logit_scale"] == pytest.approx(1 / 0.07, rel=1e-5)

    model = build(towers.NAME)
    variables, tokenizer = init_variables(model, 32, config.seed), load_tokenizer(tokenizer_file, towers.NAME)
    files = sorted(folder.rglob("*.png"))
    names = sorted({file.parent.name for file in files})
    columns = build_zero_shot_classifier(model, variables, tokenizer, names, ["a {}", "a red {}."])
    pixels = np.stack([preprocess(towers.NAME)(Image.open(file).convert("RGB")) for file in files])
    expected = (np.asarray(compiled(model.apply)(variables, pixels).embedding) @ columns).argmax(axis=1)
    with (tmp_path / "out/predictions.csv").open(newline="") as file:
        found = [int(line["zero_shot"]) for line in csv.DictReader(file)]
    assert found == expected.tolist()
    truth = np.array([names.index(file.parent.name) for file in files])
    assert rows[0]["top1"] == pytest.approx(np.mean(expected == truth))


def test_a_given_list_names_the_classes_and_may_have_more_than_the_images(tokenizer_file, folder, tmp_path):
    names = sorted({file.parent.name for file in folder.rglob("*.png")})
    (tmp_path / "classes.txt").write_text("\n".join(["cat", *names[::-1]]))
    config = asked(tokenizer_file, folder, classes=str(tmp_path / "classes.txt"))
    results = evaluate(config, tmp_path / "out")
    assert results["classes"] == 4 and results["rows"][0]["top5"] == 1


def test_images_without_classes_and_without_names_are_refused(tokenizer_file, folder, tmp_path):
    one = next(folder.rglob("*.png")).parent
    with pytest.raises(UserError, match="by class names: there are none"):
        evaluate(asked(tokenizer_file, one), tmp_path / "out")
