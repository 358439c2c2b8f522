"""A data source of your own: images that CSV files list, and one entry in `SOURCES`."""

import csv
from pathlib import Path

import numpy as np

from vitjax.data.sources.base import ListedSource
from vitjax.data.sources.open import SOURCES


class CsvSource(ListedSource):
    """Lines `file,class` of DIR/gallery.csv, DIR/query.csv, DIR/train.csv or DIR/test.csv."""

    def __init__(self, spec, split):
        """`spec.path` is DIR, `config.data.images` or `config.data.dir`."""
        folder = Path(spec.folder("path"))
        with open(folder / f"{split}.csv", newline="", encoding="utf-8") as file:
            files, names = zip(*csv.reader(file), strict=True)
        classes = sorted(set(names))
        labels = np.array([classes.index(name) for name in names], np.int32)
        super().__init__(folder, files, labels, classes)


SOURCES["csv"] = CsvSource
