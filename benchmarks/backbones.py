r"""Images per second of our backbones, beside timm or transformers on torch in the same run.

    python -m benchmarks.backbones vit_small_patch16_dinov3_qkvb vit_base_patch16_siglip_256
    python -m benchmarks.backbones [NAME ...] [--batch 1 8 32] [--dtype float32|bfloat16] [--csv FILE]

Without names: DeiT-S, Swin-T and CvT-13. Weights are random (they do not change the work), images are noise
at the model's own size, and the whole forward pass counts, up to the logits or, without a classifier, the
tokens and the pooled vector. Where torch is installed, timm's model of the same name runs too (transformers'
for CvT, which timm has not, for DINOv3 and for the image tower of SigLIP 2), eager and in inference mode, on
the same device; where it is not, its rows are left out with a note.

The two take turns, each figure is the median over rounds after warm-up, and the ratio is the median of the
rounds' ratios, so that slow spells hit both. On CPU the machine must be quiet all the same: with other work
on its two cores torch fell to a seventh of our speed on DeiT-S. Compile time is apart. Columns carry timm's
names.
`share` is the part of the device's matrix rate that is reached: of what one large product of the same type
reaches through XLA in the same run (8192 x 8192 on an accelerator, 2048 x 2048 on a CPU).
"""

import argparse
import csv
import importlib
import pathlib
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vitjax.cli import flags
from vitjax.models import build
from vitjax.sparsify import count

NAMES = ("deit_small_patch16_224", "swin_tiny_patch4_window7_224", "cvt_13")
# Where transformers has the model: its class, its configuration's, and what differs from that's defaults.
_HUGGING_FACE = {
    "cvt_13": ("CvtForImageClassification", "CvtConfig", {"num_labels": 1000}),
    "vit_small_patch16_dinov3_qkvb": ("DINOv3ViTModel", "DINOv3ViTConfig", {"num_register_tokens": 4}),
    "vit_base_patch16_siglip_256": ("SiglipVisionModel", "SiglipVisionConfig", {"image_size": 256}),
}


class Row(NamedTuple):
    """One line of the table; fields up to `infer_gmacs` carry timm's column names."""

    model: str
    infer_img_size: int  # pixels
    infer_samples_per_sec: float  # images
    infer_step_time: float  # milliseconds per batch
    infer_batch_size: int
    param_count: float  # millions
    infer_gmacs: float
    engine: str
    dtype: str
    compile_seconds: float
    ratio: float  # our speed over torch's, median over rounds; nan where torch did not run
    tflops: float  # 2 per multiply-accumulate
    share: float  # of the rate of one large product


Run = Callable[[], Any]


def main(argv: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(argv)
    device = jax.devices()[0]
    torch, reason = import_torch()
    print(
        f"jax {jax.__version__} on {device.platform} ({device.device_kind}), {args.dtype}; "
        + (f"torch {torch.__version__}, {torch.get_num_threads()} threads" if torch else reason)
    )
    rate = _matrix_rate(args.dtype, 2048 if device.platform == "cpu" else 8192)
    print(f"one large product: {rate / 1e12:.3f} TFLOP/s")
    rows: list[Row] = []
    for name in args.names:
        other, note = torch_model(torch, name) if torch else (None, "")
        if note:
            print(note)
        for batch in args.batch:
            new = _measure(name, batch, torch, other, rate, args)
            _print(new, header=not rows)
            rows += new
    if args.csv:
        with args.csv.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(Row._fields)
            writer.writerows(rows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("names", nargs="*", default=list(NAMES), help="of vitjax.list_models()")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32], help="images per call")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--seconds", type=float, default=10.0, help="of timing per model, batch and engine")
    parser.add_argument("--csv", type=pathlib.Path, help="write the table here as well")
    return parser


def _matrix_rate(dtype: str, side: int) -> float:
    """Operations per second of a product of two square matrices, at its best of 5."""
    left, right = jax.random.normal(jax.random.key(0), (2, side, side), dtype)
    product = jax.jit(jnp.matmul)
    seconds = []
    for _ in range(6):
        begin = time.perf_counter()
        jax.block_until_ready(product(left, right))
        seconds.append(time.perf_counter() - begin)
    return 2 * side**3 / min(seconds[1:])


def _measure(
    name: str, batch: int, torch: Any, other: Any, rate: float, args: argparse.Namespace
) -> list[Row]:
    model: Any = build(name, dtype=args.dtype)
    size = model.img_size
    images = np.random.default_rng(0).normal(size=(batch, size, size, 3)).astype(np.float32)
    ours, seconds = our_run(model, images)
    runs = {"jax": ours}
    if other is not None:
        runs["torch"] = torch_run(torch, other, images, args.dtype)
    times = take_turns(runs, args.seconds)
    cost = count(model, size)
    ratio = float("nan")
    if "torch" in times:
        ratio = statistics.median(t / j for j, t in zip(times["jax"], times["torch"], strict=True))
    rows = []
    for engine, each in times.items():
        step = statistics.median(each)
        rows.append(
            Row(
                model=name,
                infer_img_size=size,
                infer_samples_per_sec=round(batch / step, 2),
                infer_step_time=round(1e3 * step, 3),
                infer_batch_size=batch,
                param_count=round(cost.params / 1e6, 2),
                infer_gmacs=round(cost.macs / 1e9, 2),
                engine=engine,
                dtype=args.dtype,
                compile_seconds=round(seconds, 2) if engine == "jax" else 0.0,
                ratio=round(ratio, 3) if engine == "jax" else 1.0,
                tflops=round(2 * cost.macs * batch / step / 1e12, 3),
                share=round(2 * cost.macs * batch / step / rate, 3),
            )
        )
    return rows


def our_run(model: Any, images: np.ndarray, variables: Any = None) -> tuple[Run, float]:
    """A call that waits for its result, and the seconds it took to compile; random weights unless given."""
    batch = jnp.asarray(images)
    if variables is None:
        variables = jax.jit(model.init)(jax.random.key(0), batch[:1])
    begin = time.perf_counter()

    def apply(variables: Any, batch: jax.Array) -> Any:
        out = model.apply(variables, batch)
        return (out.tokens, out.pooled) if out.logits is None else out.logits

    forward = jax.jit(apply).lower(variables, batch).compile()
    seconds = time.perf_counter() - begin
    return lambda: jax.block_until_ready(forward(variables, batch)), seconds


def take_turns(runs: dict[str, Run], budget: float) -> dict[str, list[float]]:
    """Seconds of each call, round by round; at least 5 rounds after two of warm-up."""
    times: dict[str, list[float]] = {engine: [] for engine in runs}
    spent, round_ = 0.0, 0
    while round_ < 7 or (spent < budget * len(runs) and round_ < 202):
        for engine, run in runs.items():
            begin = time.perf_counter()
            run()
            took = time.perf_counter() - begin
            if round_ >= 2:
                times[engine].append(took)
                spent += took
        round_ += 1
    return times


def import_torch() -> tuple[Any, str]:
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        return None, "torch is not installed: its rows are left out (pip install torch timm transformers)"
    return torch, ""


def torch_model(torch: Any, name: str) -> tuple[Any, str]:
    """The same architecture on torch, or None and why not."""
    try:
        try:
            importlib.import_module("torchvision")
        except (ImportError, RuntimeError):
            # torchvision built for another torch lacks two operators that both import and never call.
            if not _KEEP:
                _KEEP.append(torch.library.Library("torchvision", "FRAGMENT"))
                for operator in ("nms", "qnms"):
                    _KEEP[0].define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        if name in _HUGGING_FACE:
            import transformers  # pyright: ignore[reportMissingImports]

            kind, config, fields = _HUGGING_FACE[name]
            return getattr(transformers, kind)(getattr(transformers, config)(**fields)).eval(), ""
        import timm  # pyright: ignore[reportMissingImports]

        return timm.create_model(name).eval(), ""
    except (ImportError, RuntimeError) as error:
        return None, f"{name}: no torch row ({type(error).__name__}: {str(error).splitlines()[0]})"


_KEEP: list[Any] = []  # a torch library lives as long as its object


def torch_run(torch: Any, model: Any, images: np.ndarray, dtype: str) -> Run:
    where = "cuda" if torch.cuda.is_available() and jax.devices()[0].platform == "gpu" else "cpu"
    kind = getattr(torch, dtype)
    model = model.to(where, kind)
    batch = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).to(where, kind)

    def run() -> None:
        with torch.inference_mode():
            model(batch)
        if where == "cuda":
            torch.cuda.synchronize()

    return run


def _print(rows: list[Row], *, header: bool) -> None:
    if header:
        print(
            f"{'model':32}{'engine':>7}{'batch':>6}{'img/s':>11}{'ms':>10}{'TFLOP/s':>9}{'share':>7}"
            f"{'ratio':>7}{'compile s':>10}"
        )
    for r in rows:
        print(
            f"{r.model:32}{r.engine:>7}{r.infer_batch_size:6}{r.infer_samples_per_sec:11,.1f}"
            f"{r.infer_step_time:10.2f}{r.tflops:9.3f}{r.share:7.2f}{r.ratio:7.2f}{r.compile_seconds:10.1f}"
        )


if __name__ == "__main__":
    flags.run_benchmark(main)
