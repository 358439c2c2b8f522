r"""Search a gallery of images, rerank the candidates by matching patches, measure both orders, and report.

python eval.py --config configs/demo.py --workdir runs/demo

Or classify images, dense and with fewer tokens: configs/classify*.py. Configs
folder, places and classify take another backbone behind a colon, as
--config folder:dinov3: a name of `vitjax models`, or a family, which are
dinov2, dinov2_giant, dinov3, dinov3_convnext, clip, siglip, siglip2, tipsv2,
pe_core. Those with a text tower serve text_search and classify_zero_shot, too,
and all of them the published protocols (cub200, cars196, sop, msls).
"""

import os
import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # no traceback of what is not imported yet

from vitjax.cli import flags
from vitjax.config import EvalConfig

if __name__ == "__main__":
    flags.begin(EvalConfig, __doc__)

import pathlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from vitjax import sharding
from vitjax.cli import run_files
from vitjax.cli.console import say, warn
from vitjax.cli.session import only_run, refuse_training_run, start
from vitjax.config import RerankConfig, validate
from vitjax.data.sources.base import notes_of
from vitjax.evaluation import classify
from vitjax.evaluation.described_images import describe_gallery, describe_images
from vitjax.evaluation.gating import accept, find_gate, open_gate
from vitjax.evaluation.index_images import suited_to_stored
from vitjax.evaluation.protocols import find_truth, open_protocol
from vitjax.evaluation.report_builder import draw, name_ranking
from vitjax.evaluation.result_tables import print_results, show_answers, show_classes, show_table
from vitjax.evaluation.search_run import (
    RANKED_TO_THE_END,
    PageField,
    Ranking,
    SearchRun,
    compare,
    rank,
    ranking_depth,
    refined,
)
from vitjax.evaluation.summary import csv_row, summarize, summarize_index, uncounted
from vitjax.evaluation.sweep import parse_sweep
from vitjax.evaluation.text_queries import describe_text_queries
from vitjax.reranker import Reranker
from vitjax.retrieval import Acceptance, Gate
from vitjax.retrieval.metrics import runs
from vitjax.retrieval.metrics.relevance import Truth

Sweep = Sequence[tuple[dict[str, Any], RerankConfig]]


def main(config: EvalConfig, workdir: str) -> None:
    """Runs the program; into a pipe, the last line on stdout is one JSON object with the final figures."""
    print_results(evaluate(config, workdir))


def evaluate(
    config: EvalConfig, workdir: str, *, sections: Mapping[str, PageField] | None = None
) -> dict[str, Any]:
    """Runs the task of the config; writes all under `workdir` and returns what results.json holds.

    Args:
        config: what to do.
        workdir: output folder.
        sections: further sections of report.html, by title; see `vitjax.evaluation.page_fields`.

    Raises:
        UserError: anything that the user can mend; one line says what.
    """
    validate(config)
    sweep = parse_sweep(config.sweep, config.rerank)
    refuse_training_run(workdir)
    if config.rerank.gate:
        Gate.read(config.rerank.gate)  # hours before it is needed
    if config.rerank.accept:
        Acceptance.read(config.rerank.accept)
    out = start(workdir)
    with only_run(out, holds=sharding.is_main_process()):
        if config.task != "classify":
            return retrieve(config, sweep, out, sections or {})
        results = classify.evaluate(config, out)
        show_classes(results)
        return results


def retrieve(
    config: EvalConfig, sweep: Sweep, out: pathlib.Path, sections: Mapping[str, PageField]
) -> dict[str, Any]:
    """Searches, reranks and measures, or only fills an index."""
    run = replace(describe(config), sections=sections)
    if config.task == "index":
        return finish_index(run, out)
    run = find_relevant(run, sweep)
    run, gate = find_gate(run)
    ranking = refined(open_gate(rank(run), gate))
    said = accept(ranking)
    compared = compare(ranking, sweep)
    clock = run.clock
    clock.close()
    compiling = sum(clock.compile_seconds.values())
    say(f"compiled {clock.compiled} programs in {compiling:.1f} s ({clock.cached} from the cache)")
    results = summarize(ranking) | {"sweep": compared} | ({"accept": said} if said else {})
    warn(*uncounted(ranking.run))
    if sharding.is_main_process():
        show_table(results)
        write(ranking, results, out)
    return results


def describe(config: EvalConfig) -> SearchRun:
    """Opens the images, loads the model, and describes gallery and queries; nothing is relevant yet."""
    clock = run_files.Stopwatch()
    with clock.stage("load"):
        gallery_source, query_source = open_protocol(config.data)
        warn(*notes_of(gallery_source, query_source))
        reranker = suited_to_stored(Reranker.from_config(config), config.index.path)
        config = measure(reranker, config)
    if not config.weights:
        warn("the weights are RANDOM: the figures mean nothing; set config.weights")
    with clock.stage("extract"):
        queries = gallery = describe_gallery(reranker, gallery_source, config)
        if config.data.text_queries and config.task != "index":
            queries = describe_text_queries(reranker, config)
        elif query_source is not gallery_source and config.task != "index":
            queries = describe_images(reranker, query_source, config, "queries")
    unknown = Truth(None, None, np.full(len(queries), -1))
    return SearchRun(config, reranker, queries, gallery, unknown, 0, clock)


def measure(reranker: Reranker, config: EvalConfig) -> EvalConfig:
    """Measures what a config asks for on images without labels, and returns the config with its price.

    What was measured before is read from the cache folder.
    """
    if config.model.center != "none":
        say(f"centre of the tokens: {config.model.center}")
        reranker.subspace, reranker.center  # noqa: B018  (measured on first use; here it counts as loading)
    if config.task == "index":
        return config
    config = replace(config, rerank=reranker.rule)
    if config.rerank.price > 0:
        say(f"matches of a cost above {config.rerank.price:.3f} are not made")
    return config


def find_relevant(run: SearchRun, sweep: Sweep) -> SearchRun:
    """The search with its ground truth, and with how many candidates that and reranking need."""
    truth = find_truth(run.config.data, run.queries, run.gallery)
    rules = [run.config.rerank, *(rule for _, rule in sweep)]
    return replace(run, truth=truth, depth=ranking_depth(rules, truth, len(run.gallery)))


def finish_index(run: SearchRun, out: pathlib.Path) -> dict[str, Any]:
    """Ends a run that only fills an index."""
    run.clock.close()
    results = summarize_index(run)
    if sharding.is_main_process():
        run_files.write_json(out / "results.json", results)
        run_files.remove_outputs(out)
        say(f"wrote {out / 'results.json'}")
    return results


def write(ranking: Ranking, results: dict[str, Any], out: pathlib.Path) -> None:
    """Writes results.json first, then what can fail: both orders, the table, the images and the page."""
    run_files.write_json(out / "results.json", results | {"explanations": None})
    say(f"wrote {out / 'results.json'}")
    run_files.remove_outputs(out)
    run = ranking.run
    names = run.queries.names(), run.gallery.names()
    listed = slice(max(RANKED_TO_THE_END, run.config.rerank.top_k))  # of a whole large gallery, gigabytes
    for name, tag, index, score in (
        ("run_pooled.trec", "pooled", ranking.before, ranking.scores),
        ("run.trec", "reranked", ranking.after.index, ranking.after.score),
    ):
        runs.write_run(out / name, *names, index[:, listed], score[:, listed], tag=tag)
    if run.truth.positives is not None:
        runs.write_qrels(out / "qrels.trec", *names, run.truth.positives)
    else:
        show_answers(name_ranking(ranking))
    warn(*run_files.append_row(out / "results.csv", run_files.plain(csv_row(results))))
    results["explanations"] = draw(ranking, results, out)
    run_files.write_json(out / "results.json", results)
    if run.config.figures.report:
        say(f"wrote {out / 'report.html'}")


if __name__ == "__main__":
    flags.run(main, EvalConfig, __doc__ or "")
