import jax.numpy as jnp
import numpy as np
import pytest
import scipy.ndimage

from tests.weights.tiny import state_of, tiny
from vitjax.layers.pos_embed import resize_positions
from vitjax.models import build
from vitjax.weights import WeightsError, load_weights, load_with_report
from vitjax.weights.grids import _split_rows, fit_positions
from vitjax.weights.layout import Positions
from vitjax.weights.rename import Renamed

D = 8


def _smooth(grid: tuple[int, int], width=D, seed=0) -> np.ndarray:
    """Rows of a table that is smooth over its grid, and unlike along its two axes."""
    chance = np.random.default_rng(seed)
    table = chance.normal(size=(*grid, width))
    table = scipy.ndimage.gaussian_filter(table, (1.5, 2.0, 0))
    return table.reshape(grid[0] * grid[1], width).astype("f")


def _load(grid, model_grid, rows=None, **changes):
    model = tiny(img_size=(model_grid[0] * 8, model_grid[1] * 8), num_classes=0, **changes)
    state = state_of(tiny(num_classes=0))
    rows = _smooth(grid) if rows is None else rows
    state["pos_embed"] = np.concatenate([np.full((1, D), 9, "f"), rows])[None]
    variables, report = load_with_report(state, model)
    return np.asarray(variables["params"]["pos_embed"])[0, 1:], report


@pytest.mark.parametrize(
    ("grid", "model_grid"),
    [
        ((9, 16), (18, 32)),
        ((18, 32), (9, 16)),
        ((16, 9), (32, 18)),
        ((2, 8), (4, 16)),
        ((3, 12), (2, 8)),
        ((6, 4), (9, 6)),
    ],
)
def test_a_table_of_the_models_aspect_is_resized_in_it(grid, model_grid):
    # A number of each row alone, or of each column, must stay so.
    lines = np.repeat(np.linspace(0, 1, grid[0], dtype="f"), grid[1])
    posts = np.tile(np.linspace(0, 1, grid[1], dtype="f"), grid[0])
    rows = np.stack([lines, posts] * 4, axis=1)
    table, report = _load(grid, model_grid, rows)
    table = table.reshape(*model_grid, D)
    assert np.ptp(table[..., 0], axis=1).max() < 1e-4 and np.ptp(table[..., 1], axis=0).max() < 1e-4
    assert f"resized from {grid[0]}x{grid[1]} to {model_grid[0]}x{model_grid[1]}" in report.notes[0]


@pytest.mark.parametrize(
    ("side", "model_grid"), [(24, (9, 16)), (24, (18, 32)), (12, (18, 32)), (12, (9, 16)), (4, (2, 8))]
)
def test_a_square_table_stays_square_in_a_model_of_16_to_9(side, model_grid):
    table, report = _load((side, side), model_grid)
    assert f"resized from {side}x{side} to {model_grid[0]}x{model_grid[1]}" in report.notes[0]
    wanted, _ = _load((side, side), (side, side))
    model = tiny(img_size=(model_grid[0] * 8, model_grid[1] * 8), num_classes=0)
    wanted = model.resize_positions(jnp.asarray(wanted), (side, side), antialias=True, offset=0.0)
    np.testing.assert_allclose(table, wanted, atol=1e-5)


def test_a_table_that_tells_nothing_is_read_in_the_models_aspect_and_doubted_aloud(caplog):
    rows = np.random.default_rng(1).normal(size=(144, D)).astype("f")
    model = tiny(img_size=(144, 256), num_classes=0)
    state = state_of(tiny(num_classes=0)) | {"pos_embed": np.concatenate([rows[:1], rows])[None]}
    load_weights(state, tiny(img_size=(18 * 8, 32 * 8), num_classes=0))
    assert "resized from 9x16" in caplog.text and "may as well be of 12x12" in caplog.text
    assert model.grid == (18, 32)


def test_a_table_of_neither_aspect_nor_square_is_refused():
    with pytest.raises(WeightsError, match="fits no grid"):
        _load((10, 16), (18, 32))


@pytest.mark.parametrize("width", [5, 13])
def test_lvvit_reads_its_table_by_the_same_rule(width):
    model = build("lvvit_s", img_size=(16 * 9, 16 * 16), embed_dim=12, depth=1, num_heads=3, num_classes=0)
    rows = np.concatenate([np.zeros((1, width), "f"), _smooth((18, 32), width)])
    renamed = Renamed("LV-ViT", Positions(antialias=False, prefix_rows=1), state={"pos_embed": rows[None]})
    notes = fit_positions(renamed, model)
    assert "from 18x32 to 9x16" in notes[0] and renamed.state["pos_embed"].shape == (1, 145, width)


SWIN = {"embed_dim": 4, "depths": (2, 2), "num_heads": (1, 2), "num_classes": 0, "patch_size": 2}


def _swin(window, size=(64, 64)):
    return build("swin_tiny_patch4_window7_224", **SWIN | {"window_size": window, "img_size": size})


def _with_tables(model, grid, width_of=lambda name: 1):
    state = state_of(model)
    for name in [n for n in state if n.endswith("relative_position_bias_table")]:
        state[name] = np.tile(_smooth(grid, 1, seed=len(name)), (1, state[name].shape[1]))
    return state


def test_a_square_table_of_as_many_offsets_as_an_oblong_window_is_not_taken_for_it():
    # Windows of 5x13 have 9x25 offsets, those of 8x8 have 15x15: 225 both.
    oblong = _swin((5, 13))
    load_weights(_with_tables(oblong, (9, 25)), oblong)
    with pytest.raises(
        WeightsError, match=r"mis-shaped: .*relative_position_bias_table \(file \(15, 15, 1\)"
    ):
        load_weights(_with_tables(oblong, (15, 15)), oblong)


def test_offsets_that_tell_nothing_are_doubted_aloud(caplog):
    oblong = _swin((5, 13))
    load_weights(state_of(oblong), oblong)
    assert "may as well be of 15x15" in caplog.text


def test_google_positions_equal_scipy_zoom():
    table = np.random.default_rng(0).normal(size=(5, 5, 3)).astype("f")
    for target in ((8, 7), (3, 4), (1, 2)):
        ours = resize_positions(jnp.asarray(table.reshape(25, 3)), (5, 5), target, corners=True)
        zoom = (target[0] / 5, target[1] / 5, 1)
        theirs = scipy.ndimage.zoom(table, zoom, order=1)
        np.testing.assert_allclose(np.asarray(ours).reshape(*target, 3), theirs, atol=1e-5)


def test_the_models_own_prefix_is_split_off_first():
    # 16 rows are a class token and 3 x 5 patches; without a prefix they would be 4 x 4.
    assert _split_rows(16, Positions(), 1, (3, 5)) == (1, [(3, 5)])
    assert _split_rows(16, Positions(), 0, (3, 5)) == (0, [(4, 4)])
