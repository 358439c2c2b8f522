r"""What a step of training costs: dense, and sparsified with masks and a teacher, as train.py makes them.

    python -m benchmarks.training --data DIR [--batch 128] [--seconds 20]

DIR holds Fashion-MNIST's published files. The model is that of configs/fashion_mnist_vit.py, 49 tokens and
9 blocks of 64; the sparsified one that of configs/fashion_mnist_dynamicvit.py. Weights are random, which is
no other work. Images are read and changed by two threads while steps run. Where torch is installed, the
same dense model, of torch's own layers, takes a step of AdamW on pixels that are there already. Rows take
turns, a few steps each, so that other work on the machine hits them alike; the figures are medians over
turns. Compilation is apart.
"""

from vitjax.cli import flags

if __name__ == "__main__":
    flags.begin()

import argparse
import pathlib
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

import train
from benchmarks.backbones import import_torch
from configs import fashion_mnist_dynamicvit, fashion_mnist_vit
from vitjax import sharding
from vitjax.config.train_config import TrainConfig

STEPS = 5  # of one turn
Turn = Callable[[], tuple[float, float]]  # -> seconds of its steps, and of these those spent waiting for data


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--data", required=True, help="folder of Fashion-MNIST's files")
    parser.add_argument("--batch", type=int, default=128, help="images of a step")
    parser.add_argument("--seconds", type=float, default=20.0, help="time for each row")
    args = parser.parse_args(argv)
    torch, reason = import_torch()
    device = jax.devices()[0]
    print(f"jax {jax.__version__} on {device.platform} ({device.device_kind}), batch {args.batch}. {reason}")
    turns = {
        "dense": our_turn(fashion_mnist_vit.get_config(), args.data, args.batch),
        "masks and teacher": our_turn(fashion_mnist_dynamicvit.get_config(), args.data, args.batch),
    }
    if torch is not None:
        turns[f"dense, torch {torch.__version__}"] = torch_turn(torch, args.batch)
    found = take_turns(turns, args.seconds)
    print("| step | ms | images/s | waiting for data |\n|---|---|---|---|")
    for name, taken in found.items():
        seconds = statistics.median(whole for whole, _ in taken) / STEPS
        waited = statistics.median(wait / whole for whole, wait in taken)
        share = "-" if "torch" in name else f"{waited:.1%}"
        print(f"| {name} | {1e3 * seconds:.0f} | {args.batch / seconds:.0f} | {share} |")


def take_turns(turns: dict[str, Turn], seconds: float) -> dict[str, list[tuple[float, float]]]:
    """What each turn took, round by round; the first, of warm-up, is left out."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in turns}
    for turn in turns.values():
        turn()
    begin = time.perf_counter()
    while time.perf_counter() - begin < seconds * len(turns):
        for name, turn in turns.items():
            found[name].append(turn())
    return found


def our_turn(config: TrainConfig, data: str, batch: int) -> Turn:
    """Some steps of train.py's own loop."""
    config.data.dir, config.batch_size, config.model.weights = data, batch, ""
    config.epochs, config.optim.freeze_epochs = 1000.0, 0.0
    run, state = train.prepare(config, pathlib.Path(), resumes=None)
    run = train.compiled(run, state)
    rows = run.feed.steps(0, run.steps)

    def turn() -> tuple[float, float]:
        nonlocal state
        begin, waited = time.perf_counter(), 0.0
        for _ in range(STEPS):
            asked = time.perf_counter()
            placed = sharding.shard_batch(next(rows), run.mesh)
            waited += time.perf_counter() - asked
            state, metrics = run.update(state, placed, run.teacher)
        jax.block_until_ready((state, metrics))
        return time.perf_counter() - begin, waited

    return turn


def torch_turn(torch: Any, batch: int) -> Turn:
    """The same number of steps of the same dense model, on one batch of noise."""
    sizes = fashion_mnist_vit.get_config().model
    nn, width, side = torch.nn, sizes.embed_dim, sizes.img_size // sizes.patch_size

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Conv2d(3, width, sizes.patch_size, sizes.patch_size)
            self.cls = nn.Parameter(torch.zeros(1, 1, width))
            self.places = nn.Parameter(0.02 * torch.randn(1, 1 + side * side, width))
            block = nn.TransformerEncoderLayer(
                width, sizes.num_heads, 4 * width, 0.0, "gelu", batch_first=True, norm_first=True
            )
            self.blocks = nn.TransformerEncoder(
                block, sizes.depth, nn.LayerNorm(width), enable_nested_tensor=False
            )
            self.head = nn.Linear(width, 10)

        def forward(self, images: Any) -> Any:
            tokens = self.embed(images).flatten(2).transpose(1, 2)
            tokens = torch.cat([self.cls.expand(len(tokens), -1, -1), tokens], dim=1) + self.places
            return self.head(self.blocks(tokens)[:, 0])

    model = Net()
    optimiser = torch.optim.AdamW(model.parameters(), 1e-3, weight_decay=0.05)
    draw = np.random.default_rng(0)
    images = torch.from_numpy(draw.standard_normal((batch, 3, sizes.img_size, sizes.img_size), np.float32))
    labels = torch.from_numpy(draw.integers(0, 10, batch))

    def turn() -> tuple[float, float]:
        begin = time.perf_counter()
        for _ in range(STEPS):
            optimiser.zero_grad(set_to_none=True)
            nn.functional.cross_entropy(model(images), labels, label_smoothing=0.1).backward()
            optimiser.step()
        return time.perf_counter() - begin, 0.0

    return turn


if __name__ == "__main__":
    flags.run_benchmark(main)
