"""Cards of words: the cells that boxes point at hold their words."""

import numpy as np
import pytest

from vitjax.viz.plans import Patches
from vitjax.viz.word_card import card_grid, word_card


@pytest.mark.parametrize("count", [1, 2, 5, 9, 33, 64])
def test_a_grid_has_a_cell_for_each_word_and_no_empty_row(count):
    rows, columns = card_grid(count)
    assert count <= rows * columns < count + columns


def test_each_word_is_drawn_in_its_own_cell_however_long():
    words = ["a", "red", "photosynthesis-and-more-of-it", "cat", "I"]
    rows, columns = card_grid(len(words))
    card = word_card(words)
    high, wide = card.shape[0] // rows, card.shape[1] // columns
    for cell in range(rows * columns):
        row, column = divmod(cell, columns)
        inside = card[row * high : (row + 1) * high, column * wide : (column + 1) * wide][3:-3, 3:-3]
        assert (inside.min() < 100) == (cell < len(words))
        assert inside[:, :1].min() > 200 and inside[:, -1:].min() > 200


def test_cells_beyond_the_words_are_nobodys_and_not_dropped():
    patches = Patches.of_words(5, (3, 2))
    np.testing.assert_array_equal(patches.owner, [[0, 1], [2, 3], [4, -1]])
    assert not patches.dropped.any()
