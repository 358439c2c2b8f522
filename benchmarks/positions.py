r"""Positional bias of tokens: how large it is, what removes it, and other options of the descriptor.

    python -m benchmarks.positions --places DIR --classes DIR --flat DIR --cache DIR

--places holds query/, ref/ and ground_truth.json (recall@1). --classes is a folder of classes, of which every
other one, from the first, is searched in itself (precision@1, every other photo), while photos of the rest
serve as unrelated photos. --flat holds images of one flat thing and homographies.json, as for
`benchmarks.explanations` (share of visible patches sent to their true cell). Tokens of all blocks, and
queries, keys and values, come from one forward pass per photo and are kept in --cache, so that every row
after that is a matter of seconds. All else is as --config says.

Three tables, in Markdown: what the centre of the tokens needs; the cosine of tokens of unrelated photos at
the same position and at different positions, block by block; and options of the descriptor, with and without
the centre.

    python -m benchmarks.positions ... --model NAME --weights SOURCE --grid 7 --blocks 5 7 9 11 --per-class 4

Another backbone, at some of its blocks only, without facets, smoothing and rollout: a third of the time.
--per-class searches so many photos of every class, which are the unrelated photos too. With --blocks a fourth
table compares the ways of matching at each of these blocks, with and without the centre.
"""

import argparse
import pathlib
import runpy
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.explanations import Pair, flat_pairs
from vitjax.cli import flags
from vitjax.config import Blocks, EvalConfig, blocks_of
from vitjax.data.eval_loader import batches
from vitjax.data.sources.base import FolderSource, ImageSource, ListSource, fingerprint
from vitjax.data.sources.synthetic import SyntheticSource
from vitjax.ot import attention_rollout
from vitjax.reranker import SYNTHETIC_IMAGES, Reranker
from vitjax.retrieval import Descriptors, match_accuracy, match_pairs, rerank, search, token_center
from vitjax.retrieval.descriptors import pool_grid, pool_weights, smooth_grid, unit_parts
from vitjax.retrieval.metrics.relevance import Truth, read_ground_truth

COUNTS = 1, 4, 16, 64, 256
DRAWS = 3  # of photos, averaged, where there are more than asked for
FACETS = "query", "key", "value"
STARTS = 0, 4, 6  # of rollout


class View(NamedTuple):
    """Which vectors of a forward pass stand for the patches; of several blocks, side by side."""

    block: Blocks
    facet: str = "token"
    smooth: int = 1

    @property
    def blocks(self) -> tuple[int, ...]:
        """One, or several."""
        return self.block if isinstance(self.block, tuple) else (self.block,)


class Bias(NamedTuple):
    """What is subtracted from the tokens (`token_center`), projected out of them (`positional_subspace`)."""

    center: np.ndarray | None = None  # (t, d)
    subspace: np.ndarray | None = None  # (d, k)

    def removed(self, tokens: np.ndarray) -> np.ndarray:
        """Tokens (n, t, d) without it."""
        tokens = tokens if self.center is None else tokens - self.center
        return tokens if self.subspace is None else tokens - (tokens @ self.subspace) @ self.subspace.T


@dataclass(frozen=True)
class Seen:
    """Everything one pass over some photos gives: tokens (n, t, d) by view, not normalised, and what more.

    Attributes:
        tokens: by view.
        pooled: (n, d) by block; of several, that of the last.
        rollout: weights (n, t) by first block.
    """

    tokens: dict[View, np.ndarray]
    pooled: dict[Blocks, np.ndarray]
    rollout: dict[int, np.ndarray]

    def describe(self, view: View, bias: Bias, start: int | None) -> Descriptors:
        """Descriptors of the photos, without the positional bias."""
        tokens = unit_parts(bias.removed(self.tokens[view].astype(np.float32)), len(view.blocks))
        weights = None if start is None else self.rollout[start]
        return Descriptors.from_arrays(self.pooled[view.block], tokens, weights)


def main(argv: Sequence[str] | None = None) -> None:
    args = parser(__doc__).parse_args(argv)
    config = named_config(args)
    reranker = Reranker.from_config(config)
    config.model.block = blocks_of(config.model)[-1] % reranker.model.depth
    look = Look(reranker, args.cache, args.blocks)
    unrelated = _rows(FolderSource(args.classes), args.per_class, odd=1)
    photos = look(FolderSource(args.classes), unrelated if args.per_class else unrelated[: max(COUNTS)])
    made = look(SyntheticSource("leaves", SYNTHETIC_IMAGES))
    grey = look(ListSource([np.full((224, 224, 3), 128, np.uint8)]))
    judges = dict(judges_of(args, reranker, look))
    print(*_similarities(photos, made), sep="\n", end="\n\n", flush=True)
    tables = {
        "centre": _centres(config, photos, made, grey, judges),
        "descriptor": _options(config, made, judges),
        "matched by": _matchings(config, made, judges) if args.blocks else (),
    }
    for name, lines in tables.items():
        print(_title(name, judges))
        for line in lines:
            print(line, flush=True)
        print()


def named_config(args: argparse.Namespace) -> EvalConfig:
    """The config that is named, with the backbone that is."""
    config: EvalConfig = runpy.run_path(str(args.config))["get_config"]("")
    if args.model:
        config.model = replace(config.model, name=args.model, img_size=0)
        config.weights = args.weights
    if args.blocks:
        config.model.block = args.blocks[-1] if args.block is None else args.block
    config.model.grid = args.grid or config.model.grid
    return config


def parser(description: str | None) -> argparse.ArgumentParser:
    """What every benchmark of positional bias is told."""
    parser = argparse.ArgumentParser(description=(description or "").split("\n", 1)[0])
    parser.add_argument("--config", type=pathlib.Path, default=pathlib.Path("configs/places.py"))
    parser.add_argument("--places", type=pathlib.Path, required=True, help="query/, ref/, ground_truth.json")
    parser.add_argument("--classes", type=pathlib.Path, required=True, help="sub-folders are classes")
    parser.add_argument("--flat", type=pathlib.Path, required=True, help="images and homographies.json")
    parser.add_argument("--cache", type=pathlib.Path, required=True, help="folder for what the model gives")
    parser.add_argument("--model", default="", help="another backbone than the config's")
    parser.add_argument("--weights", default="", help="its weights")
    parser.add_argument("--grid", type=int, default=0, help="config.model.grid, if another than the config's")
    parser.add_argument(
        "--blocks", type=one_or_several, nargs="+", default=[], help="only these; 5,11: side by side"
    )
    parser.add_argument("--block", type=int, help="of them, the one of the tables of centres and options")
    parser.add_argument("--per-class", type=int, default=0, help="photos of every class; 0 = see above")
    return parser


def one_or_several(text: str) -> Blocks:
    """Reads 5, or 5,11."""
    blocks = tuple(int(part) for part in text.split(","))
    return blocks[0] if len(blocks) == 1 else blocks


def _rows(source: FolderSource, per_class: int, *, odd: int) -> np.ndarray:
    """So many photos of every class; or all of the odd, every other of the even classes; in random order."""
    assert source.labels is not None
    rng, labels = np.random.default_rng(0), np.asarray(source.labels)
    if not per_class:
        return rng.permutation(np.flatnonzero(labels % 2 == odd)[:: 1 if odd else 2])
    each = [rng.permutation(np.flatnonzero(labels == number))[:per_class] for number in np.unique(labels)]
    return np.concatenate(each)


class Look:
    """Passes photos through the model once, and remembers on a disk."""

    def __init__(self, reranker: Reranker, cache: pathlib.Path, blocks: Sequence[Blocks] = ()) -> None:
        self.reranker, self.cache = reranker, cache
        depth = self.reranker.model.depth
        block = blocks_of(self.reranker.config.model)[-1]
        self.starts, self.forward = (() if blocks else STARTS), jax.jit(self._forward)
        if blocks:
            self.views = [View(block) for block in blocks]
            return
        self.views = [View(block) for block in range(depth)]
        self.views += [View(block, smooth=size) for size in (3, 5)]
        self.views += [View(block + d, facet) for facet in FACETS for d in (0, 1)]

    def __call__(self, source: ImageSource, rows: np.ndarray | None = None) -> Seen:
        """What the model gives for some photos of a source."""
        asked = None if rows is None else np.sort(rows).tolist()
        made_by = self.reranker.config.weights, self.reranker.config.model, self.reranker.preprocess
        key = repr((fingerprint(source), asked, self.views, made_by, "in this order"))
        file = self.cache / f"{zlib.crc32(key.encode()):08x}.npz"
        if not file.exists():
            self.cache.mkdir(parents=True, exist_ok=True)
            chosen = source if rows is None else ListSource([source.read(i) for i in asked or ()])
            flat = jax.tree.leaves(self._pass(chosen))
            np.savez(file, *flat)
        with np.load(file) as kept:
            leaves = iter([kept[name] for name in kept.files])
        blocks = dict.fromkeys(view.block for view in self.views)
        keys: tuple[Iterable[Any], ...] = (self.views, blocks, self.starts)
        parts: list[Any] = [{key: next(leaves) for key in each} for each in keys]
        return Seen(*parts)

    def _pass(self, source: ImageSource) -> Any:
        loader = batches(source, self.reranker.preprocess, 16, workers=2)
        parts = []
        for batch in loader:
            found = self.forward(self.reranker.variables, np.asarray(batch.images))
            parts.append(jax.tree.map(lambda x, keep=batch.valid: np.asarray(x)[keep], found))
        return jax.tree.map(lambda *x: np.concatenate(x), *parts)

    def _forward(self, variables: Any, images: jax.Array) -> Any:
        """One call per view; what they share is computed once, as the compiler finds it equal."""
        grid, tokens, pooled, rollout = self.reranker.config.model.grid, {}, {}, {}
        for view in self.views:
            more: dict[str, Any] = {} if view.facet == "token" else {"facet": view.facet}
            outputs: list[Any] = [
                self.reranker.model.apply(
                    variables, images, block=block, return_attention=bool(self.starts), **more
                )
                for block in view.blocks
            ]
            joined = jnp.concatenate([each.tokens for each in outputs], axis=2)
            out = outputs[-1].replace(tokens=joined, prefix=joined[:, :0])
            smooth = smooth_grid(out.tokens, out.grid, view.smooth) if view.smooth > 1 else out.tokens
            tokens[view] = pool_grid(smooth, out.grid, grid).astype(jnp.float16)
            pooled[view.block] = out.pooled
            if view == View(blocks_of(self.reranker.config.model)[-1]):
                for start in self.starts:
                    weights = attention_rollout(out.attention, start=start, grid=out.grid)
                    rollout[start] = pool_weights(weights, out.grid, grid)
        # Lists, since keys of one block and of several have no order that a pytree could sort them in.
        return [list(each.values()) for each in (tokens, pooled, rollout)]


Judge = Callable[[EvalConfig, View, Bias, int | None], np.ndarray]


def judges_of(args: argparse.Namespace, reranker: Reranker, look: Look) -> Iterator[tuple[str, Judge]]:
    """What is measured on each set: (config, view, bias, start of rollout) -> shares by query or pair."""
    yield "places, R@1", _ranked(*place_set(args.places, look))
    yield "classes, P@1", _ranked(*class_set(args.classes, look, args.per_class))
    yield "flat, right cell", corresponding(list(flat_pairs(args.flat, reranker)), look)


def place_set(folder: pathlib.Path, look: Look) -> tuple[Seen, Seen, Truth]:
    """Queries, gallery and relevant images of a folder with query/, ref/ and ground_truth.json."""
    sides = [FolderSource(folder / side) for side in ("query", "ref")]
    listed = read_ground_truth(folder / "ground_truth.json", *map(len, sides))
    right = [np.array(listed.get(i, []), int) for i in range(len(sides[0]))]
    return look(sides[0]), look(sides[1]), Truth(right, None, np.full(len(right), -1))


def class_set(folder: pathlib.Path, look: Look, per_class: int = 0) -> tuple[Seen, Seen, Truth]:
    """So many photos of each class, or every other of the even classes, searched in themselves."""
    source = FolderSource(folder)
    rows = np.sort(_rows(source, per_class, odd=0))
    labels, seen = np.asarray(source.labels)[rows], look(source, rows)
    return seen, seen, Truth.from_labels(labels, labels, np.arange(len(rows)))


def _ranked(queries: Seen, gallery: Seen, truth: Truth) -> Judge:
    def judge(config: EvalConfig, view: View, bias: Bias, start: int | None) -> np.ndarray:
        ours, theirs = (side.describe(view, bias, start) for side in (queries, gallery))
        _, before = search(ours, theirs, 20, exclude=truth.own)
        after = rerank(ours, theirs, before, config=config.rerank)
        return truth.per_query(np.asarray(after.index))["recall_at_1"]

    return judge


def corresponding(pairs: Sequence[Pair], look: Look) -> Judge:
    """The share of visible patches that each pair of images sends to their true cell."""
    seen = look(ListSource([np.asarray(x) for pair in pairs for x in (pair.query, pair.candidate)]))

    def judge(config: EvalConfig, view: View, bias: Bias, start: int | None) -> np.ndarray:
        found = seen.describe(view, bias, start)
        one, two = np.arange(0, 2 * len(pairs), 2), np.arange(1, 2 * len(pairs), 2)
        n = found.sizes.tokens
        match = match_pairs(found, found, one, two, config=config.rerank, top=n * n)
        hits = []
        for i, pair in enumerate(pairs):
            plan = np.zeros((n, n))
            plan[match.query_patch[i], match.candidate_patch[i]] = match.mass[i]
            hits.append(match_accuracy(plan, pair.truth).hit_0)
        return np.array(hits)

    return judge


def _title(name: str, judges: dict[str, Judge]) -> str:
    return f"| {name} | " + " | ".join(judges) + " |\n|---|" + "---:|" * len(judges)


def _line(label: str, found: Sequence[np.ndarray]) -> str:
    return f"| {label} | " + " | ".join(f"{100 * np.nanmean(x):.1f}" for x in found) + " |"


def _centres(
    config: EvalConfig, photos: Seen, made: Seen, grey: Seen, judges: dict[str, Judge]
) -> Iterator[str]:
    """What the centre is measured on."""
    view = View(blocks_of(config.model)[-1])
    tokens = photos.tokens[view].astype(np.float32)

    def line(label: str, biases: Sequence[Bias]) -> str:
        values = [[judge(config, view, bias, None) for bias in biases] for judge in judges.values()]
        return _line(label, [np.mean(each, axis=0) for each in values])

    def center(of: np.ndarray, *, photos: bool = True) -> Bias:
        return Bias(token_center(of, "position", photos=photos))

    yield line("none", [Bias()])
    yield line("256 photos, one mean for all positions", [Bias(token_center(tokens, "mean"))])
    yield line("one grey image, no photo", [center(grey.tokens[view], photos=False)])
    yield line(f"{SYNTHETIC_IMAGES} synthetic images, no photo", [center(made.tokens[view], photos=False)])
    whole = len(photos.rollout) > 0  # of some blocks only, a few rows will do
    for count in COUNTS if whole else COUNTS[2::2]:
        draws = [np.random.default_rng(i).permutation(len(tokens))[:count] for i in range(DRAWS)]
        draws = draws[: DRAWS if whole and count < len(tokens) else 1]
        label = f"{count} photo" + "s" * (count > 1)
        yield line(label, [center(tokens[rows]) for rows in draws])
        if whole:
            yield line(f"{label}, differences only", [center(tokens[rows], photos=False) for rows in draws])


def _similarities(photos: Seen, made: Seen) -> Iterator[str]:
    """Cosines of tokens of two unrelated photos, at the same position and at two positions, by view."""
    yield "| cosine of unrelated photos | same position | other position | same, centred | other, centred |"
    yield "|---|---:|---:|---:|---:|"
    for view, tokens in photos.tokens.items():
        if view.smooth > 1:
            continue
        centred = tokens - token_center(made.tokens[view], "position", photos=False)
        cosines = [*_cosines(tokens), *_cosines(centred)]
        yield f"| {view.facet}, block {view.block} | " + " | ".join(f"{x:.3f}" for x in cosines) + " |"


def _cosines(tokens: np.ndarray) -> tuple[float, float]:
    """Means over all pairs of different photos: of tokens at one position, and at two positions."""
    unit = tokens.astype(np.float64)
    unit /= np.linalg.norm(unit, axis=-1, keepdims=True)
    n, t, _ = unit.shape
    place, whole = unit.sum(axis=0), unit.sum(axis=(0, 1))
    image = unit.sum(axis=1)
    pairs = n * (n - 1)
    same = ((place**2).sum() - n * t) / (pairs * t)
    every = ((whole**2).sum() - (image**2).sum()) / (pairs * t * t)
    return same, (every * t - same) / (t - 1) if t > 1 else same


def _options(config: EvalConfig, made: Seen, judges: dict[str, Judge]) -> Iterator[str]:
    """Options of the descriptor, with the centre of synthetic images and without one."""
    base = blocks_of(config.model)[-1]
    views = list(made.tokens)
    rows: list[tuple[str, View, int | None]] = [("the config's", View(base), None)]
    rows += [(f"block {v.block}", v, None) for v in views if v.block != base and v == View(v.block)]
    rows += [(f"mean of {v.smooth} x {v.smooth} neighbours", v, None) for v in views if v.smooth > 1]
    rows += [(f"{v.facet} of block {v.block}", v, None) for v in views if v.facet != "token"]
    starts = STARTS if len(views) > len({v.block for v in views}) else ()
    rows += [(f"marginals: rollout from block {start}", View(base), start) for start in starts]
    for label, view, start in rows:
        rule = config.rerank if start is None else replace(config.rerank, marginals="rollout")
        used = replace(config, rerank=rule)
        center = Bias(token_center(made.tokens[view], "position", photos=False))
        for name, bias in (("", center), (", no centre", Bias())):
            yield _line(label + name, [judge(used, view, bias, start) for judge in judges.values()])


def _matchings(config: EvalConfig, made: Seen, judges: dict[str, Judge]) -> Iterator[str]:
    """Ways of matching at each block, with the centre of synthetic images and without one."""
    rule = replace(config.rerank, mass=1.0, tau=1.0)
    ways = {
        "Chamfer": replace(rule, method="chamfer"),
        "mutual nearest neighbours": replace(rule, method="mutual"),
        "balanced, epsilon .05": replace(rule, epsilon=0.05),
        "partial, mass .5, epsilon .05": replace(rule, epsilon=0.05, mass=0.5),
        f"relaxed, tau {config.rerank.tau:g}, epsilon {config.rerank.epsilon:g}": config.rerank,
    }
    for view, tokens in made.tokens.items():
        center = Bias(token_center(tokens, "position", photos=False))
        pooled = replace(config, rerank=replace(rule, method="pooled"))
        found = [judge(pooled, view, Bias(), None) for name, judge in judges.items() if "flat" not in name]
        yield _line(f"block {view.block}, pooled alone", found) + " - |"  # it matches no patches
        for name, way in ways.items():
            used = replace(config, rerank=way)
            for label, bias in (("", center), (", no centre", Bias())):
                found = [judge(used, view, bias, None) for judge in judges.values()]
                yield _line(f"block {view.block}, {name}{label}", found)


if __name__ == "__main__":
    flags.run_benchmark(main)
