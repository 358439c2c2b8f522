"""Writes vitjax/model_costs.json: `python -m tests.models.make_costs`, after a model was added."""

import json
from typing import Any

from tests import ROOT
from tests.models.test_counts import COSTS, _counted
from vitjax.models import build, list_models

FILE = ROOT / "vitjax" / "model_costs.json"


def layout(model: Any) -> tuple[int, int]:
    """Patch tokens at the model's own size, before any leaves, and their width."""
    model = getattr(model, "image", model)
    if hasattr(model, "patch_size") and hasattr(model, "depth"):
        return model.grid[0] * model.grid[1], model.embed_dim
    side = model.img_size if hasattr(model, "img_size") else 224
    last = side // (16 if type(model).__name__ in ("CvT", "LVViT") else 32)
    widths = {"CvT": 384, "ResNet": 2048, "LVViT": getattr(model, "embed_dim", 0)}
    wide = widths.get(type(model).__name__) or (
        model.dims[-1] if hasattr(model, "dims") else 8 * model.embed_dim
    )
    return last**2, wide


def costs() -> dict[str, list[int]]:
    """Name -> parameters, multiply-accumulates, tokens and width."""
    found = {}
    for name in list_models():
        cost = COSTS.get(name) or _counted(name)
        found[name] = [cost.params, cost.macs, *layout(build(name))]
    return found


if __name__ == "__main__":
    lines = [f" {json.dumps(name)}: {json.dumps(row)}" for name, row in costs().items()]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n")
