"""Modules that have moved: their old names work for one version, with a DeprecationWarning."""

import importlib
import importlib.abc
import importlib.machinery
import sys
import types
import warnings
from typing import Any

MOVED = {
    "activations": "layers.activations",
    "backbone": "models.from_config",
    "cached": "system.disk_cache",
    "checkpoint": "training.checkpoint",
    "classification": "evaluation.classify",
    "command_line": "cli.command_line",
    "console": "cli.console",
    "data.cifar": "data.sources.cifar",
    "data.digits": "data.sources.digits",
    "data.feed": "data.train_loader",
    "data.folders": "data.sources.folders",
    "data.idx": "data.sources.mnist",
    "data.listings": "data.sources.cub_cars_sop",
    "data.made": "data.sources.synthetic",
    "data.msls": "data.sources.msls",
    "data.pipeline": "data.eval_loader",
    "data.places": "data.sources.geo",
    "data.scenes": "data.sources.demo_scenes",
    "data.tfds": "data.sources.tfds",
    "data.utm_names": "data.sources.utm_names",
    "drawing": "evaluation.report_builder",
    "files": "system.files",
    "indexing": "evaluation.index_images",
    "kinds": "config.field_types",
    "models.arguments": "models.call_checks",
    "models.attention": "layers.attention",
    "models.batch_norm": "layers.batch_norm",
    "models.layers": "layers.basic",
    "models.pos_embed": "layers.pos_embed",
    "models.reduced": "models.token_pruning",
    "models.stack": "models.block_stack",
    "models.windows": "layers.windows",
    "ot.blocks": "ot.solvers.batching",
    "ot.fused": "ot.solvers.loop",
    "ot.implicit": "ot.solvers.implicit_diff",
    "ot.on_chip": "ot.solvers.pallas",
    "ot.ott": "ot.solvers.ott_jax",
    "ot.scaling": "ot.solvers.iteration",
    "parallel": "sharding",
    "peers": "system.peers",
    "program": "cli.flags",
    "protocols": "evaluation.protocols",
    "record": "cli.run_files",
    "retrieval.arrays": "retrieval.gallery.arrays",
    "retrieval.building": "retrieval.gallery.build",
    "retrieval.candidates": "retrieval.candidate_blocks",
    "retrieval.confidence": "retrieval.metrics.bootstrap",
    "retrieval.correspondence": "retrieval.explanation.correspondence",
    "retrieval.explain": "retrieval.explanation.matches",
    "retrieval.faiss_index": "retrieval.first_stage.faiss_index",
    "retrieval.faithfulness": "retrieval.explanation.faithfulness",
    "retrieval.gate": "retrieval.reranking.gate",
    "retrieval.ground_truth": "retrieval.metrics.ground_truth",
    "retrieval.image_ids": "retrieval.gallery.image_ids",
    "retrieval.manifest": "retrieval.gallery.manifest",
    "retrieval.matching": "retrieval.reranking.matching",
    "retrieval.part_transfer": "retrieval.explanation.keypoints",
    "retrieval.plans": "retrieval.reranking.plans",
    "retrieval.pricing": "retrieval.reranking.pricing",
    "retrieval.qdrant_index": "retrieval.first_stage.qdrant_index",
    "retrieval.runs": "retrieval.metrics.runs",
    "retrieval.searcher": "retrieval.first_stage.searcher",
    "retrieval.storage": "retrieval.gallery.storage",
    "retrieval.stored": "retrieval.gallery.quantize",
    "retrieval.streaming": "retrieval.first_stage.streaming",
    "retrieval.sums": "retrieval.gallery.checksums",
    "retrieval.topk": "retrieval.first_stage.exact",
    "retrieval.truth": "retrieval.metrics.relevance",
    "retrieval.writer_lock": "retrieval.gallery.writer_lock",
    "screen": "evaluation.result_tables",
    "side": "evaluation.described_images",
    "sparsify.masked": "layers.masked_attention",
    "starting": "cli.session",
    "sweep": "evaluation.sweep",
    "terminal": "system.terminal",
    "training.config": "config.train_config",
    "training.initial": "training.init_state",
    "training.pace": "training.session",
    "training.images": "training.data",
    "training.stopping": "training.preemption",
    "viz.reduced": "viz.token_figures",
    "weights.stack": "weights.scan_params",
}


class MovedModules(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports the module that replaced an old one under the old name too."""

    def find_spec(
        self, fullname: str, path: Any = None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Returns a spec for an old name of vitjax, None for every other module."""
        new = MOVED.get(fullname.removeprefix("vitjax.")) if fullname.startswith("vitjax.") else None
        if new is None:
            return None
        warnings.warn(
            f"{fullname} has moved to vitjax.{new}; the old name goes with the next version",
            DeprecationWarning,
            stacklevel=2,
        )
        return importlib.machinery.ModuleSpec(fullname, self)

    def exec_module(self, module: types.ModuleType) -> None:
        """Puts the new module in the place of the empty one that was made for the old name."""
        sys.modules[module.__name__] = importlib.import_module(f"vitjax.{MOVED[module.__name__[7:]]}")


def install() -> None:
    """Makes the old names importable, once, behind everything else that finds modules."""
    if not any(isinstance(finder, MovedModules) for finder in sys.meta_path):
        sys.meta_path.append(MovedModules())
