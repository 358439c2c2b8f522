"""One numeric fixture of a reference implementation, and the rule by which an output passes."""

import json
import pathlib
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Fixture:
    """Arrays of one `.npz` file, split by their prefix; `meta` is its JSON description."""

    stem: str
    meta: dict
    weights: dict[str, np.ndarray]
    inputs: dict[str, np.ndarray]
    outputs: dict[str, np.ndarray]

    @property
    def tolerance(self) -> float:
        return self.meta["tolerance"]


def load(path: pathlib.Path) -> Fixture:
    with np.load(path) as file:
        parts: dict[str, dict[str, np.ndarray]] = {"weights": {}, "inputs": {}, "outputs": {}}
        for key in file.files:
            if key != "meta":
                group, name = key.split("/", 1)
                parts[group][name] = file[key]
        return Fixture(path.stem, json.loads(str(file["meta"])), **parts)


def assert_close(ours, reference: np.ndarray, tolerance: float, name: str) -> None:
    """Holds |ours - reference| <= tolerance * max(1, max|reference|); integers must be equal."""
    ours = np.asarray(ours)
    assert ours.shape == reference.shape, f"{name}: shape {ours.shape}, reference {reference.shape}"
    if np.issubdtype(reference.dtype, np.integer):
        np.testing.assert_array_equal(ours, reference, err_msg=name)
        return
    scale = max(1.0, float(np.max(np.abs(reference), initial=0.0)))
    gap = float(np.max(np.abs(ours.astype(np.float64) - reference), initial=0.0))
    assert gap <= tolerance * scale, f"{name}: largest gap {gap:.3g}, allowed {tolerance * scale:.3g}"


def assert_all_compared(fixture: Fixture, ours: dict, left_out: dict[str, str] | None = None) -> None:
    """Compares every output of the fixture; `left_out` maps a key to the reason it is not compared."""
    left_out = left_out or {}
    unexplained = sorted(set(fixture.outputs) - set(ours) - set(left_out))
    assert not unexplained, f"{fixture.stem}: outputs neither compared nor explained: {unexplained}"
    for name, value in ours.items():
        assert_close(value, fixture.outputs[name], fixture.tolerance, f"{fixture.stem} {name}")
