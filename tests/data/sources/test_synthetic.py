import numpy as np

from vitjax.data import ImageSource
from vitjax.data.sources.synthetic import SIDE, SyntheticSource


def test_images_are_rgb_differ_and_come_again():
    source = SyntheticSource("leaves", 3)
    assert isinstance(source, ImageSource)
    assert (len(source), source.labels, source.names) == (3, None, ["leaves-0", "leaves-1", "leaves-2"])
    first, again, second = source.read(0), SyntheticSource("leaves", 8).read(0), source.read(1)
    assert (first.mode, first.size) == ("RGB", (SIDE, SIDE))
    assert first.tobytes() == again.tobytes() != second.tobytes()


def test_images_are_the_same_everywhere():
    blocks = np.asarray(SyntheticSource("leaves", 1).read(0), float).reshape(4, 56, 4, 56, 3).mean((1, 3, 4))
    wanted = [[129, 105, 109, 144], [105, 101, 108, 114], [125, 126, 126, 111], [128, 154, 118, 110]]
    np.testing.assert_allclose(blocks, wanted, atol=2)  # a library may draw an edge a pixel off


def test_no_place_is_special():
    source = SyntheticSource("leaves", 40)
    images = np.stack([np.asarray(source.read(i), float) for i in range(40)])
    cells = images.reshape(40, 4, SIDE // 4, 4, SIDE // 4, 3).mean((2, 4, 5))
    spread = cells.std(0).mean() / np.sqrt(40)
    assert np.abs(cells.mean(0) - cells.mean()).max() < 4 * spread
    assert images.std((1, 2)).mean() > 25, "there is something to see"
