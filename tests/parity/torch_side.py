"""Reference models on torch: random weights that matter, written in the file layout of their library."""

import importlib
import pathlib
import warnings
from typing import Any

import numpy as np
import pytest

_KEEP: list[Any] = []  # a torch library lives as long as its object


def torch() -> Any:
    """Imports torch; torchvision built for another torch lacks two operators that nobody here calls."""
    found = pytest.importorskip(
        "torch", reason="parity with live models needs torch: pip install '.[parity]'"
    )
    if not _KEEP:
        _KEEP.append(found)
        try:
            importlib.import_module("torchvision")
        except (ImportError, RuntimeError):
            _KEEP.append(found.library.Library("torchvision", "FRAGMENT"))
            for operator in ("nms", "qnms"):
                _KEEP[1].define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return found


def library(name: str) -> Any:
    """Imports timm or transformers."""
    torch()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pytest.importorskip(
            name, reason=f"parity with live models needs {name}: pip install '.[parity]'"
        )


def randomise(model: Any, seed: int = 0) -> Any:
    """Moves every weight and running statistic off its start, so that each one shows in the result.

    Biases, norms, tokens and LayerScale start at constants that hide mistakes; matrices get a spread that
    keeps activations near 1 and attention far from uniform.
    """
    t = torch()
    draw = t.Generator().manual_seed(seed)

    def noise(like: Any) -> Any:
        return t.randn(like.shape, generator=draw)

    with t.no_grad():
        for parameter in model.parameters():
            fan_in = parameter[0].numel() if parameter.ndim > 1 else 25
            parameter.add_(noise(parameter) / fan_in**0.5)
        for name, statistic in model.named_buffers():
            if name.endswith("running_mean"):
                statistic.add_(0.2 * noise(statistic))
            elif name.endswith("running_var"):
                statistic.mul_(0.5 + t.rand(statistic.shape, generator=draw))
    return model.eval()


def save(model: Any, path: pathlib.Path) -> pathlib.Path:
    """Writes weights as their library publishes them: Hugging Face's own writer, or timm's names."""
    if hasattr(model, "save_pretrained"):
        model.save_pretrained(path)
        return path / "model.safetensors"
    from safetensors.torch import save_file

    path = path / "timm.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
    return path


def images(size: tuple[int, int], *, count: int = 2) -> np.ndarray:
    """Noise of unit variance, NHWC."""
    return np.random.default_rng(1).normal(size=(count, *size, 3)).astype(np.float32)


def tensor(images: np.ndarray) -> Any:
    return torch().from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


def timm_outputs(model: Any, images: np.ndarray) -> dict[str, np.ndarray]:
    """Features after the final norm, pooled, logits, and "attention.<i>" of every block that has some."""
    maps: list[Any] = []
    for module in model.modules():
        if hasattr(module, "fused_attn") and hasattr(module, "attn_drop"):
            module.fused_attn = False
            module.attn_drop.register_forward_hook(lambda *call: maps.append(call[2]))
    with torch().inference_mode():
        features = model.forward_features(tensor(images))
        pooled = model.forward_head(features, pre_logits=True)
        found = {"features": features, "pooled": pooled}
        found |= {f"attention.{i}": weights for i, weights in enumerate(maps)}
        if model.num_classes:
            found["logits"] = model(tensor(images))
    return {name: value.numpy() for name, value in found.items()}


def hf_outputs(model: Any, images: np.ndarray) -> dict[str, np.ndarray]:
    """Every tensor of the model's output; attention as "attentions.<i>" where the model has it."""
    maps = {}
    if not type(model).__name__.startswith("Cvt"):
        model.set_attn_implementation("eager")
        maps = {"output_attentions": True}
    with torch().inference_mode():
        out = model(tensor(images), **maps)
    found = {}
    for name, value in out.items():
        parts = (
            {f"{name}.{i}": part for i, part in enumerate(value)}
            if isinstance(value, tuple)
            else {name: value}
        )
        found |= parts
    return {name: value.numpy() for name, value in found.items()}
