"""Pretrained weights: fetched, read without running them, fitted to a model with one report."""

from vitjax.errors import WeightsError
from vitjax.system.disk_cache import cache_dir
from vitjax.weights.digest import fingerprint
from vitjax.weights.hub import fetch
from vitjax.weights.load import load_weights, load_with_report
from vitjax.weights.report import LoadReport, Mismatch
from vitjax.weights.scan_params import stack_blocks, unstack_blocks

__all__ = [
    "LoadReport",
    "Mismatch",
    "WeightsError",
    "cache_dir",
    "fetch",
    "fingerprint",
    "load_weights",
    "load_with_report",
    "stack_blocks",
    "unstack_blocks",
]
