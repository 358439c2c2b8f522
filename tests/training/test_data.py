import numpy as np
import pytest
from PIL import Image

from vitjax.config.train_config import TrainConfig, TrainDataConfig
from vitjax.errors import UserError
from vitjax.training.data import labels_to_find, open_sources


def folder(root, classes: int, each: int) -> str:
    for c in range(classes):
        (root / f"class-{c}").mkdir(parents=True)
        for i in range(each):
            Image.fromarray(np.full((8, 8, 3), c, np.uint8)).save(root / f"class-{c}" / f"{i}.png")
    return str(root)


def split(train: str, held_out: float) -> TrainConfig:
    config = TrainConfig(task="metric", data=TrainDataConfig(train=train))
    config.metric.held_out = held_out
    return config


def test_a_share_of_classes_that_rounds_to_none_or_all_is_refused(tmp_path):
    train = folder(tmp_path, classes=4, each=1)
    assert [len(x.class_names) for x in open_sources(split(train, 0.3))] == [3, 1]
    for share in (0.05, 0.95):
        with pytest.raises(UserError, match=rf"hold-out of {share} of 4 classes") as error:
            open_sources(split(train, share))
        assert error.value.fields == ("metric.held_out", "data.test")


def test_held_out_classes_of_one_image_each_are_refused(tmp_path):
    _, held_out = open_sources(split(folder(tmp_path / "one", classes=4, each=1), 0.5))
    with pytest.raises(UserError, match="no two held-out images are of one class"):
        labels_to_find(held_out)
    _, held_out = open_sources(split(folder(tmp_path / "two", classes=4, each=2), 0.5))
    assert labels_to_find(held_out).tolist() == [0, 0, 1, 1]
