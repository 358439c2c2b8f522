r"""Recall, bytes and pairs/s of every code that a gallery can store.

    python -m benchmarks.bytes --gallery DIR [--query DIR --ground-truth FILE] [--config configs/places.py]
        [--tokens 0 32 16 --bits 128 64 --limit 600 --cache DIR]

Without --query the gallery is searched in itself, and sub-folders are classes. Every row stores the same
descriptors, in float16, int8, signs (sign), rotated signs (itq) or product codes (pq), for each number of
aggregated tokens (0: as the config says), opens them from the disk, and reranks. Queries keep full precision.
With --cache images pass through the model once, whatever the number of tokens, and in later runs never.

Columns: bytes of one image, all arrays together but ids; recall@1 of pooled search and after reranking;
reranked pairs/s from the disk, without compilation, the best of three.
"""

import argparse
import math
import pathlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from benchmarks.kept_tokens import KeptTokens
from benchmarks.searched import config_of, searched
from vitjax.cli import flags
from vitjax.config import RerankConfig
from vitjax.reranker import Reranker
from vitjax.retrieval import Descriptors, Gallery, rerank
from vitjax.retrieval.gallery.codecs import CODECS
from vitjax.retrieval.gallery.quantize import ROW_ARRAYS
from vitjax.retrieval.metrics.relevance import Truth

HEAD = "| code | tokens | bytes/image | pooled R@1 | reranked R@1 | pairs/s |\n|---|---:|---:|---:|---:|---:|"


def main(argv: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(argv)
    config = config_of(args.config)
    kept = KeptTokens(config, args.cache) if args.cache else None
    print(HEAD, flush=True)
    for count in args.tokens:
        chosen = replace(config, model=replace(config.model, tokens=count, aggregate=args.aggregate))
        reranker = Reranker.from_config(chosen)
        queries, gallery, truth = searched(
            reranker, args.gallery, args.query, args.ground_truth, limit=args.limit, kept=kept
        )
        for name, bits in [(x, 0) for x in ("float16", "int8", "sign")] + [
            (x, bits) for x in ("itq", "pq") for bits in args.bits
        ]:
            print(*_rows(name, bits, queries, gallery, truth, reranker.rule), sep="\n", flush=True)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--config", default="configs/places.py", help="FILE.py or FILE.py:preset")
    parser.add_argument("--gallery", type=pathlib.Path, required=True, help="folder of images")
    parser.add_argument("--query", type=pathlib.Path, help="folder of images")
    parser.add_argument("--ground-truth", type=pathlib.Path, help="JSON, as for eval.py")
    parser.add_argument("--tokens", type=int, nargs="*", default=[0, 32, 16])
    parser.add_argument("--aggregate", default="kmeans")
    parser.add_argument("--bits", type=int, nargs="*", default=[128, 64])
    parser.add_argument("--limit", type=int, default=0, help="so many images drawn at random; 0 = all")
    parser.add_argument("--cache", type=pathlib.Path, help="folder for all tokens of the images")
    return parser


def _rows(
    name: str, bits: int, queries: Descriptors, gallery: Descriptors, truth: Truth, rule: RerankConfig
) -> Iterator[str]:
    with tempfile.TemporaryDirectory() as folder:
        found = stored(folder, gallery, name, bits)
        _, before = found.search(queries, rule.top_k, exclude=truth.own)
        times = []
        for _ in range(4):  # the first compiles
            begin = time.perf_counter()
            after = rerank(queries, found, before, config=rule)
            times.append(time.perf_counter() - begin)
        recall = [100 * truth.metrics(np.asarray(x))["recall_at_1"] for x in (before, after.index)]
        label = f"{name} {bits}" if bits else name
        yield (
            f"| {label} | {found.sizes.tokens} | {bytes_of(found):,} | {recall[0]:.1f} | {recall[1]:.1f} "
            f"| {before.size / min(times[1:]):,.0f} |"
        )


def stored(folder: str, gallery: Descriptors, dtype: str, bits: int) -> Gallery:
    """Descriptors on the disk, their tokens in this type or as codes of so many bits."""
    codec = CODECS[dtype](gallery.tokens[gallery.valid], bits) if dtype in CODECS else None
    pooled = "float16" if codec is None else "int8"
    kept = Gallery.create(folder, dtype=dtype, pooled_dtype=pooled, codec=codec)
    kept.add(gallery)
    kept.close()
    return Gallery.open(folder)


def bytes_of(gallery: Gallery) -> int:
    """Of one image, all arrays that are there."""
    one = gallery.read(slice(0, 1))()
    parts = [getattr(one, name) for name in ROW_ARRAYS]
    return sum(math.prod(x.shape) * x.dtype.itemsize for x in parts if x is not None)


if __name__ == "__main__":
    flags.run_benchmark(main)
