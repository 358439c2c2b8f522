"""Names of ConvNeXt: timm, the original repositories (ConvNeXt, DINOv3, DynamicCNN), Hugging Face."""

from collections.abc import Iterable

import numpy as np

from vitjax.weights.layout import Layout

_ORIGINAL = {
    r"downsample_layers\.0\.(.*)": r"stem.\1",
    r"downsample_layers\.(\d+)\.(.*)": r"stages.\1.downsample.\2",
    r"stages\.(\d+)\.(\d+)\.dwconv\.(.*)": r"stages.\1.blocks.\2.conv_dw.\3",
    r"stages\.(\d+)\.(\d+)\.pwconv(\d)\.(.*)": r"stages.\1.blocks.\2.mlp.fc\3.\4",
    r"stages\.(\d+)\.(\d+)\.(.*)": r"stages.\1.blocks.\2.\3",
    r"score_predictor\.(.*)": r"stages.2.score_predictor.\1",
}
_LAYER = r"stages\.(\d+)\.layers\.(\d+)\."
_HERE = r"stages.\1.blocks.\2."
_HF = {
    r"stages\.0\.downsample_layers\.(.*)": r"stem.\1",
    r"stages\.(\d+)\.downsample_layers\.(.*)": r"stages.\1.downsample.\2",
    _LAYER + r"depthwise_conv\.(.*)": _HERE + r"conv_dw.\3",
    _LAYER + r"layer_norm\.(.*)": _HERE + r"norm.\3",
    _LAYER + r"pointwise_conv(\d)\.(.*)": _HERE + r"mlp.fc\3.\4",
    _LAYER + r"gamma": _HERE + r"gamma",
    r"layer_norm\.(.*)": r"norm.\1",
}
_TIMM = {r"head\.norm\.(.*)": r"norm.\1", r"head\.fc\.(.*)": r"head.\1"}
_TWICE = {r"norms\.\d+\..*": "the final norm, a second time"}


def _linear(name: str, array: np.ndarray) -> Iterable[tuple[str, np.ndarray]]:
    """Predictors of the original are convolutions of one pixel: linear layers."""
    if name.startswith("score_predictor.") and array.ndim == 4 and array.shape[2:] == (1, 1):
        array = array[:, :, 0, 0]
    return ((name, array),)


LAYOUTS = (
    Layout("Hugging Face", "stages.0.downsample_layers.0.weight", table=_HF),
    Layout(
        "original ConvNeXt or DINOv3", "downsample_layers.0.0.weight", "", _ORIGINAL, _TWICE, to_torch=_linear
    ),
    Layout("timm", "stem.0.weight", r"stages\.\d+\.blocks\.\d+\.conv_dw\.weight", _TIMM),
)
