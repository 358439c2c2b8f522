"""Writes tests/golden/steps_*.npz: whole training steps of the official code of DynamicViT, on small models.

Runs against raoyongming/DynamicViT at commit 1322e626d1e9eca18cc150569908fb4af29e15f7, with torch 2.13.0 (its
CPU build) and timm 0.4.12; nothing of these is part of this repository:

    git clone https://github.com/raoyongming/DynamicViT DIR && git -C DIR checkout 1322e626
    pip install torch==2.13.0 numpy pillow && pip install --no-deps timm==0.4.12
    python tests/fixtures_scripts/make_official_steps.py DIR

Models, losses, parameter groups, schedule, running mean and the training loop are the official ones; the
weights, the batches and the Gumbel noise are drawn here and written down. All is computed in float64, and eps
of AdamW is 1e-4: at 1e-8 it would make steps of full length out of the rounding of gradients that are 0.
"""

import argparse
import json
import pathlib
import sys
import types

import numpy as np

COMMIT = "1322e626d1e9eca18cc150569908fb4af29e15f7"
GOLDEN = pathlib.Path(__file__).parent.parent / "golden"
ROWS, CLASSES, SMOOTHING, EVERY = 6, 5, 0.1, 7  # of large tensors one element in EVERY is written
RECIPE = {
    "epochs": 8, "done": 7, "warmup_epochs": 3, "lr": 1e-2, "min_lr": 1e-4, "lr_scale": 0.5,
    "freeze_epochs": 5, "weight_decay": 0.05, "eps": 1e-4, "ema": 0.9,
}  # fmt: skip
KINDS = {
    "deit": {
        "name": "dynamicvit_deit_small_patch16_224", "ratio": 3.0, "accumulate": 1,
        "keep": [0.7, 0.49, 0.343],
        "config": {
            "img_size": 28, "patch_size": 2, "embed_dim": 16, "depth": 4, "num_heads": 2, "mlp_ratio": 2.0,
            "pruning_loc": [1, 2, 3],
        },
    },
    "lvvit": {
        "name": "dynamicvit_lvvit_s", "ratio": 2.0, "accumulate": 1, "keep": [0.7, 0.49, 0.343],
        "config": {
            "img_size": 32, "patch_size": 4, "embed_dim": 16, "depth": 4, "num_heads": 2, "mlp_ratio": 2.0,
            "pruning_loc": [1, 2, 3], "skip_lam": 2.0,
        },
    },
    "swin": {
        "name": "dynamicswin_tiny_patch4_window7_224", "ratio": 10.0, "accumulate": 2,
        "keep": [0.7, 0.5, 0.3],
        "config": {
            "img_size": 32, "patch_size": 1, "window_size": 4, "embed_dim": 8, "depths": [1, 1, 4, 1],
            "num_heads": [1, 2, 2, 4], "mlp_ratio": 2.0, "pruning_loc": [1, 2, 3],
        },
    },
}  # fmt: skip


def import_official(folder: pathlib.Path) -> types.SimpleNamespace:
    """The official modules, with what they import and do not need here stood in for."""
    import torch

    torch.set_num_threads(1)
    torch.set_default_dtype(torch.float64)
    torch.cuda.synchronize = lambda *_: None
    numbers = types.ModuleType("torch._six")
    numbers.inf, numbers.container_abcs = float("inf"), __import__("collections.abc").abc
    board = types.ModuleType("tensorboardX")
    board.SummaryWriter = object
    sys.modules |= {"torch._six": numbers, "tensorboardX": board}
    for name in ("", ".ops", ".ops.misc", ".transforms", ".transforms.functional", ".datasets"):
        sys.modules["torchvision" + name] = types.ModuleType("torchvision" + name)
    sys.modules["torchvision.ops.misc"].FrozenBatchNorm2d = torch.nn.BatchNorm2d
    sys.modules["torchvision"].transforms = sys.modules["torchvision.transforms"]
    sys.modules["torchvision.transforms"].functional = sys.modules["torchvision.transforms.functional"]
    sys.path.insert(0, str(folder))
    import engine
    import losses
    import optim_factory
    import utils
    from models import dylvvit, dyswin, dyvit

    return types.SimpleNamespace(
        torch=torch, engine=engine, losses=losses, optim_factory=optim_factory, utils=utils,
        dyvit=dyvit, dylvvit=dylvvit, dyswin=dyswin,
    )  # fmt: skip


def build(official: types.SimpleNamespace, kind: str, keep: list[float], config: dict) -> tuple:
    """Student and dense teacher."""
    sizes = config | {"num_classes": CLASSES}
    loc = {"pruning_loc": sizes.pop("pruning_loc")}
    if kind == "swin":
        sizes |= {"drop_path_rate": 0.0}
        return (
            official.dyswin.AdaSwinTransformer(**sizes, **loc, sparse_ratio=keep),
            official.dyswin.SwinTransformer_Teacher(**sizes),
        )
    if kind == "lvvit":
        sizes |= {"p_emb": "4_2", "return_dense": True, "mix_token": True}
        student = official.dylvvit.LVViTDiffPruning(**sizes, **loc, token_ratio=keep, distill=True)
        return student, official.dylvvit.LVViT_Teacher(**sizes)
    sizes |= {"qkv_bias": True}
    student = official.dyvit.VisionTransformerDiffPruning(**sizes, **loc, token_ratio=keep, distill=True)
    return student, official.dyvit.VisionTransformerTeacher(**sizes)


def draw_weights(model, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Weights that float16 holds exactly; norms about 1."""
    found = {}
    for name, value in model.named_parameters():
        spread = 0.3 / max(1.0, np.prod(value.shape[1:]) ** 0.5 / 4) if value.ndim > 1 else 0.1
        middle = 1.0 if value.ndim == 1 and name.endswith("weight") else 0.0
        drawn = middle + np.round(256 * rng.normal(0, spread, value.shape)) / 256
        found[name] = drawn.astype(np.float16)
    return found


class Noise:
    """Stands in for `F.gumbel_softmax`: given noise, the same for each call of a stage."""

    def __init__(self, official: types.SimpleNamespace, noise: np.ndarray) -> None:
        self.noise, self.calls, self.closest = noise, 0, np.inf
        functional = official.torch.nn.functional
        names = {name: getattr(functional, name) for name in dir(functional) if name[0] != "_"}
        for module in (official.dyvit, official.dylvvit, official.dyswin):
            module.F = types.SimpleNamespace(**names | {"gumbel_softmax": self})
        self.torch = official.torch

    def __call__(self, logits, tau=1, hard=False, dim=-1):
        noisy = logits + self.torch.tensor(self.noise[self.calls % len(self.noise)], dtype=logits.dtype)
        self.calls += 1
        self.closest = min(self.closest, float((noisy[..., 0] - noisy[..., 1]).abs().min().detach()))
        soft = (noisy / tau).softmax(dim)
        top = self.torch.zeros_like(soft).scatter_(dim, soft.argmax(dim, keepdim=True), 1.0)
        return top - soft.detach() + soft


def recorded(official: types.SimpleNamespace, kind: str, teacher) -> tuple:
    """The official criterion, and the list that every call adds its loss and its parts to."""
    from timm.loss import SoftTargetCrossEntropy

    wanted = KINDS[kind]
    shared = {"clf_weight": 1.0, "keep_ratio": wanted["keep"], "ratio_weight": wanted["ratio"]}
    if kind == "swin":
        criterion = official.losses.ConvNextDistillDiffPruningLoss(
            teacher, SoftTargetCrossEntropy(), mse_token=True, swin_token=True, **shared
        )
    else:
        criterion = official.losses.DistillDiffPruningLoss_dynamic(
            teacher, SoftTargetCrossEntropy(), mse_token=kind == "deit", distill_weight=0.5, **shared
        )
    seen = []

    def call(samples, outputs, targets):
        loss, parts = criterion(samples, outputs, targets)
        seen.append([float(x.detach()) for x in (loss, *parts)])
        return loss, parts

    return call, seen


def train(official: types.SimpleNamespace, kind: str, student, criterion, images, labels):
    """All steps; returns the schedule and the running mean."""
    from timm.data.mixup import mixup_target
    from timm.utils import ModelEma

    torch, parts = official.torch, KINDS[kind]["accumulate"]

    def only_smooth(samples, targets):
        return samples, mixup_target(targets, CLASSES, 1.0, SMOOTHING, "cpu").to(samples.dtype)

    args = types.SimpleNamespace(
        opt="adamw",
        lr=RECIPE["lr"],
        weight_decay=RECIPE["weight_decay"],
        opt_eps=RECIPE["eps"],
        opt_betas=None,
    )
    optimizer = official.optim_factory.create_optimizer(args, student, bone_lr_scale=RECIPE["lr_scale"])
    rates = official.utils.cosine_scheduler(
        RECIPE["lr"], RECIPE["min_lr"], RECIPE["epochs"], 1, warmup_epochs=RECIPE["warmup_epochs"]
    )
    decay = official.utils.cosine_scheduler(
        RECIPE["weight_decay"], RECIPE["weight_decay"], RECIPE["epochs"], 1
    )
    mean = ModelEma(student, decay=RECIPE["ema"])
    pixels = (images.astype(np.float64) / 255 - 0.5) / 0.5
    for epoch in range(RECIPE["done"]):
        rows = pixels[epoch % 2].transpose(0, 3, 1, 2), labels[epoch % 2].astype(np.int64)
        loader = [tuple(torch.tensor(x[i::parts].copy()) for x in rows) for i in range(parts)]
        official.engine.train_one_epoch(
            student, criterion, loader, optimizer, "cpu", epoch, None, model_ema=mean, mixup_fn=only_smooth,
            start_steps=epoch, lr_schedule_values=rates, wd_schedule_values=decay,
            num_training_steps_per_epoch=1, update_freq=parts,
        )  # fmt: skip
    return rates, mean.ema


def run(official: types.SimpleNamespace, kind: str) -> dict[str, np.ndarray]:
    """All that one fixture holds."""
    wanted = KINDS[kind]
    rng = np.random.default_rng(sorted(KINDS).index(kind))
    student, teacher = build(official, kind, wanted["keep"], dict(wanted["config"]))
    weights = draw_weights(student, rng)
    state = {name: official.torch.tensor(value.astype(np.float64)) for name, value in weights.items()}
    student.load_state_dict(state, strict=False)
    teacher.load_state_dict(state, strict=False)
    teacher.eval()

    side, parts = wanted["config"]["img_size"], wanted["accumulate"]
    images = rng.integers(0, 256, (2, ROWS, side, side, 3), dtype=np.uint8)  # of even and of odd steps
    labels = rng.integers(0, CLASSES, (2, ROWS), dtype=np.int32)
    tokens = {"deit": 196, "lvvit": 64, "swin": 64}[kind]
    noise = rng.gumbel(size=(len(wanted["keep"]), ROWS // parts, tokens, 2)).astype(np.float16)
    given = Noise(official, noise)
    criterion, seen = recorded(official, kind, teacher)
    rates, mean = train(official, kind, student, criterion, images, labels)
    assert given.closest > 1e-5, f"a decision is as good as tied: {given.closest}"

    found = {"inputs/images": images, "inputs/labels": labels, "inputs/noise": noise}
    found |= {f"weights/{name}": value for name, value in weights.items()}
    found["outputs/losses"] = np.array(seen).reshape(RECIPE["done"], parts, 5).mean(axis=1)
    found["outputs/rates"] = rates
    for group, one in (("params", student), ("ema", mean)):
        for name, value in one.state_dict().items():
            if (group == "params" or kind == "deit") and (name in weights or "running" in name):
                found[f"{group}/{name}"] = packed(value.numpy(), weights.get(name))
    meta = {
        "what": "whole training steps with given weights, batches and Gumbel noise",
        "reference": "raoyongming/DynamicViT", "reference_version": COMMIT, "timm": "0.4.12",
        "kind": kind, **wanted, "recipe": RECIPE, "smoothing": SMOOTHING, "num_classes": CLASSES,
        "every": EVERY,
        "notes": "params/ and ema/ hold what the steps added to weights/, of tensors of 1024 numbers or more "
        "every 7th; running statistics are whole. losses: total, classify, ratio summed over stages, "
        "distill, token. Part i of an accumulated batch has rows i, i + parts, ...",
    }  # fmt: skip
    return found | {"meta": np.array(json.dumps(meta))}


def packed(after: np.ndarray, before: np.ndarray | None) -> np.ndarray:
    """What was added to a weight; of a large one some of it."""
    if before is None:
        return after.astype(np.float32)
    gap = (after - before.astype(np.float64)).astype(np.float32)
    return gap.ravel()[::EVERY] if gap.size >= 1024 else gap


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=pathlib.Path, help="checkout of the official code")
    official = import_official(parser.parse_args().folder)
    for kind in KINDS:
        np.savez_compressed(GOLDEN / f"steps_{kind}.npz", **run(official, kind))


if __name__ == "__main__":
    main()
