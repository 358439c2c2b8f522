r"""Ways to rerank on one set of descriptors: ours and the field's, with intervals against pooled search.

    python -m benchmarks.rerankers --images DIR [--queries DIR --ground-truth FILE] [--limit 300]
        [--config configs/folder.py[:PRESET] --model NAME --weights SOURCE] [--top-k 100 --bits 128]
        [--elvis FILE] [--csv FILE --json FILE]

Without --queries every image is searched for among the others, and sub-folders are classes. All rows reorder
the same first candidates of the same pooled search, whose tail stays as it is; but for alpha-QE, which
searches again. Tokens are the config's, so the centre that it takes away helps every row. Rows:

- ours: the config's recipe; ours on codes: the gallery stored as signs or as rotated signs (itq), queries
  exact; ours, then k-reciprocal.
- Chamfer, MaxSim (as sentence-transformers scores late interaction), mutual nearest neighbours, each alone.
- released transport: "Beyond the CLS Token" as its code computes it, balanced, epsilon .05, stop rule and
  cross-correlation marginals included, plus the pooled cosine. Its batch is a query's candidates.
- Chamfer on codes: the bits of AMES (rotated signs on both sides), without its transformer.
- ELViS: its head with --elvis, the published weights or your own, made for tokens of this length.
- k-reciprocal (Zhong et al. 2017) and alpha-QE (Radenovic et al. 2018) of pooled vectors.

Columns: precision at 1, which recall at 1 equals; MAP@R; recall at 5 and 10, in percent; what is gained over
pooled search in the first two, with paired 95 % bootstrap intervals (all are in --csv and --json); bytes of a
gallery image as the method needs it stored, ids aside; milliseconds for 100 candidates, without compilation,
the best of three.
"""

import argparse
import csv
import json
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.bytes import bytes_of, stored
from benchmarks.searched import Searched, config_of, searched, with_model
from vitjax.cli import flags, run_files
from vitjax.cli.console import say
from vitjax.config import RerankConfig
from vitjax.models.elvis import Elvis
from vitjax.ot import maxsim, structural_similarity
from vitjax.ot.marginals import pair_marginals
from vitjax.reranker import Reranker
from vitjax.retrieval import Descriptors, DescriptorSet, Shortlist, refine, rerank
from vitjax.retrieval.metrics.bootstrap import LEVEL, bootstrap_intervals
from vitjax.retrieval.metrics.definitions import judge_hits
from vitjax.retrieval.metrics.relevance import KS, Truth
from vitjax.retrieval.reranking.then import AlphaQueryExpansion, expand
from vitjax.system.files import replacing
from vitjax.weights import load_weights

METRICS = ("precision_at_1", "mean_average_precision_at_r", *(f"recall_at_{k}" for k in KS))
HEAD = (
    "| | P@1, R@1 | MAP@R | R@5 | R@10 | P@1, gain | MAP@R, gain | bytes/image | ms/100 |\n"
    "|---|---:|---:|---:|---:|---:|---:|---:|---:|"
)
Order = Callable[[np.ndarray], np.ndarray]  # candidates (q, k) -> in another order; or the whole gallery
Score = Callable[[Descriptors, Descriptors], jax.Array]  # of an image and k others -> (k,)


class Way(NamedTuple):
    """One row: how candidates are ordered, and bytes of a gallery image that this reads."""

    name: str
    order: Order
    bytes: int


def main(argv: Sequence[str] | None = None) -> None:
    args = _parser().parse_args(argv)
    config = with_model(config_of(args.config), args.model, args.weights)
    reranker = Reranker.from_config(config)
    images = searched(reranker, args.images, args.queries, args.ground_truth, limit=args.limit)
    rule = replace(reranker.rule, top_k=args.top_k)
    before = images.gallery.search(images.queries.pooled, depth_of(images), exclude=images.truth.own)[1]
    pooled, rows = None, []
    print(HEAD, flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for way in ways(images, reranker, rule, args, folder):
            say(f"{way.name}: {len(before)} queries")
            order, cost = timed(way.order, before[:, : args.top_k])
            if order.shape != before.shape:
                order = np.concatenate([order, before[:, args.top_k :]], axis=1)
            values = per_query(images.truth, order)
            pooled = values if pooled is None else pooled
            rows.append(row(way, values, pooled, cost))
            print(line(rows[-1]), flush=True)
    _write(args, rows)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--images", type=pathlib.Path, required=True, help="folder that is searched")
    parser.add_argument("--queries", type=pathlib.Path, help="folder of images that are searched for")
    parser.add_argument("--ground-truth", type=pathlib.Path, help="JSON, as for eval.py")
    parser.add_argument("--limit", type=int, default=0, help="so many images drawn at random; 0 = all")
    parser.add_argument("--config", default="configs/folder.py", help="FILE.py or FILE.py:preset")
    parser.add_argument("--model", default="", help="of `vitjax models`, instead of the config's")
    parser.add_argument("--weights", default="", help="instead of the config's")
    parser.add_argument("--top-k", type=int, default=100, help="candidates of each query")
    parser.add_argument("--bits", type=int, default=128, help="of a token's code")
    parser.add_argument("--elvis", help="weights of an ELViS head")
    parser.add_argument("--csv", type=pathlib.Path, help="write all figures here")
    parser.add_argument("--json", type=pathlib.Path, help="write all figures here")
    return parser


def ways(
    images: Searched, reranker: Reranker, rule: RerankConfig, args: argparse.Namespace, folder: str
) -> Iterator[Way]:
    """The rows of the table, pooled search first."""
    queries, gallery, _ = images
    whole = bytes_of(stored(f"{folder}/float16", gallery, "float16", 0))
    pooled = 2 * gallery.pooled.shape[1]
    alone = replace(rule, weight=0.0, marginals="uniform")

    def by(config: RerankConfig, among: DescriptorSet = gallery, asked: Descriptors = queries) -> Order:
        def order(before: np.ndarray) -> np.ndarray:
            found = rerank(asked, among, before, config=config)
            return np.asarray(refine(Shortlist(asked, among, config), found).index)

        return order

    cosine = replace(rule, method="pooled", weight=1.0)
    yield Way("pooled search", lambda before: before, pooled)
    yield Way("ours", by(rule), whole)
    signs, codes = (stored(f"{folder}/{dtype}", gallery, dtype, args.bits) for dtype in ("sign", "itq"))
    yield Way("ours on codes, sign", by(rule, signs), bytes_of(signs))
    yield Way("ours on codes, itq", by(rule, codes), bytes_of(codes))
    yield Way("ours, then k-reciprocal", by(replace(rule, then="kreciprocal")), whole)
    yield Way("Chamfer", by(replace(alone, method="chamfer")), whole)
    yield Way("MaxSim", by_score(late_interaction, images), whole)
    yield Way("mutual nearest neighbours", by(replace(alone, method="mutual")), whole)
    yield Way("released transport", by_score(released, images), whole)
    assert codes.codec is not None
    bits = replace(queries, tokens=codes.codec.decode(codes.codec.encode(queries.tokens)))
    on_codes = by(replace(alone, method="chamfer"), codes, bits)
    yield Way("Chamfer on codes, itq", on_codes, bytes_of(codes))
    if args.elvis:
        yield Way("ELViS", by_score(elvis(args.elvis, gallery), images), whole)
    yield Way("k-reciprocal, pooled", by(replace(cosine, then="kreciprocal")), pooled)
    yield Way("alpha-QE, pooled", expanded(images, depth_of(images)), pooled)


def depth_of(images: Searched) -> int:
    """Ranks of a whole ranking, and at least those that the metrics look at."""
    return max(len(images.gallery) - int((images.truth.own >= 0).all()), *KS)


def by_score(score: Score, images: Searched) -> Order:
    """Candidates by a score of their own; equal ones as they were."""
    queries, gallery = jax.device_put((images.queries, images.gallery))

    @jax.jit
    def of_query(queries: Descriptors, gallery: Descriptors, row: Any, candidates: Any) -> jax.Array:
        one = jax.tree.map(lambda x: x[row], queries)
        many = jax.tree.map(lambda x: x[candidates], gallery)
        return jnp.where(candidates >= 0, score(one, many), -jnp.inf)

    def order(before: np.ndarray) -> np.ndarray:
        scores = np.stack([np.asarray(of_query(queries, gallery, q, each)) for q, each in enumerate(before)])
        return np.take_along_axis(before, np.argsort(-scores, axis=1, kind="stable"), axis=1)

    return order


def late_interaction(one: Descriptors, many: Descriptors) -> jax.Array:
    """MaxSim of a query with k candidates."""
    similarity = jnp.einsum("nd,kmd->knm", one.tokens, many.tokens, precision="highest")
    return maxsim(similarity, jnp.broadcast_to(one.valid, (len(similarity), *one.valid.shape)), many.valid)


def released(one: Descriptors, many: Descriptors) -> jax.Array:
    """Score of the papers' released code: structural plus pooled cosine."""
    query = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(many.tokens), *x.shape)), one)
    kind = "cross_correlation" if one.pooled.shape[-1] == one.tokens.shape[-1] else "uniform"
    weighed = pair_marginals(
        kind, query.tokens, many.tokens, query.pooled, many.pooled, query_valid=query.valid,
        candidate_valid=many.valid, compat="released",
    )  # fmt: skip
    structural = structural_similarity(
        query.tokens, many.tokens, weighed.a, weighed.b, epsilon=0.05, iterations=100, compat="released"
    )
    return structural + jnp.einsum("d,kd->k", one.pooled, many.pooled, precision="highest")


def elvis(weights: str, gallery: Descriptors) -> Score:
    """Score of an ELViS head."""
    head = Elvis(local_dim=gallery.tokens.shape[-1])
    variables = load_weights(weights, head)

    def score(one: Descriptors, many: Descriptors) -> jax.Array:
        query = jax.tree.map(lambda x: jnp.broadcast_to(x, (len(many.tokens), *x.shape)), one)
        found: Any = head.apply(variables, query.tokens, many.tokens, query.valid, many.valid)
        return found.score

    return score


def expanded(images: Searched, depth: int) -> Order:
    """The gallery searched again by queries that their first neighbours joined."""
    stage = AlphaQueryExpansion()

    def order(before: np.ndarray) -> np.ndarray:
        vectors, gallery = (np.asarray(side.pooled) for side in (images.queries, images.gallery))
        joined = expand(vectors, gallery, before[:, : stage.k], stage.alpha)
        return images.gallery.search(joined, depth, exclude=images.truth.own)[1]

    return order


def timed(order: Order, before: np.ndarray) -> tuple[np.ndarray, float]:
    """The new order, and milliseconds for 100 candidates, the best of three after one that compiles."""
    found, times = order(before), []
    for _ in range(3):
        begin = time.perf_counter()
        order(before)
        times.append(time.perf_counter() - begin)
    return found, 1e5 * min(times) / max(int((before >= 0).sum()), 1)


def per_query(truth: Truth, order: np.ndarray) -> dict[str, np.ndarray]:
    """Metrics of each query; NaN where nothing is relevant to it."""
    relevant = np.array([len(rows) for rows in truth.positives or ()])
    found = judge_hits(truth.hits(order), relevant, KS)
    return {name: np.where(relevant > 0, found[name], np.nan) for name in METRICS}


def row(
    way: Way, values: dict[str, np.ndarray], pooled: dict[str, np.ndarray], cost: float
) -> dict[str, Any]:
    """Means, gains over pooled search, and the ends of the gains' intervals."""
    gains = np.stack([values[name] - pooled[name] for name in METRICS], axis=1)
    ends = bootstrap_intervals(gains)
    found: dict[str, Any] = {"method": way.name}
    for i, name in enumerate(METRICS):
        found[name] = float(np.nanmean(values[name]))
        found |= {f"{name}_gain": float(np.nanmean(gains[:, i]))}
        found |= {f"{name}_gain_low": float(ends[i, 0]), f"{name}_gain_high": float(ends[i, 1])}
    return found | {"bytes_per_image": way.bytes, "milliseconds_per_100": round(cost, 3)}


def line(found: dict[str, Any]) -> str:
    """A row in Markdown, in percent."""
    shown = [name for name in METRICS if name != "recall_at_1"]
    cells = [f"{100 * found[name]:.1f}" for name in shown]
    for name in METRICS[:2]:
        gain, low, high = (100 * found[f"{name}_gain{end}"] for end in ("", "_low", "_high"))
        cells.append(f"{gain:+.1f} ({low:+.1f} to {high:+.1f})")
    cells += [f"{found['bytes_per_image']:,}", f"{found['milliseconds_per_100']:.1f}"]
    return f"| {found['method']} | " + " | ".join(cells) + " |"


def _write(args: argparse.Namespace, rows: list[dict[str, Any]]) -> None:
    if args.csv:
        with replacing(args.csv) as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    if args.json:
        told = {name: str(value) for name, value in vars(args).items() if value not in (None, "")}
        whole = {"arguments": told, "level": LEVEL, "device": run_files.device(), "rows": rows}
        with replacing(args.json) as file:
            json.dump(run_files.plain(whole), file, indent=2)


if __name__ == "__main__":
    flags.run_benchmark(main)
