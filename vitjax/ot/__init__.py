"""Optimal transport between patch tokens; knows arrays only."""

import warnings
from typing import Any

from vitjax.ot import marginals, released
from vitjax.ot.matches import (
    chamfer_match,
    mutual_mass_match,
    mutual_match,
    partial_match,
    priced_match,
    relaxed_match,
    unmatched_term,
)
from vitjax.ot.nearest import chamfer, maxsim, mutual_nearest
from vitjax.ot.outputs import PairMarginals, StructuralMatch, Transport
from vitjax.ot.priced import priced_sinkhorn
from vitjax.ot.problem import Solver, TransportProblem
from vitjax.ot.rollout import attention_rollout, rollout_matrix
from vitjax.ot.similarity import structural_match, structural_similarity
from vitjax.ot.solve import partial_sinkhorn, relaxed_sinkhorn, sinkhorn
from vitjax.ot.solvers import SOLVERS

__all__ = [
    "SOLVERS",
    "PairMarginals",
    "Solver",
    "StructuralMatch",
    "Transport",
    "TransportProblem",
    "attention_rollout",
    "chamfer",
    "chamfer_match",
    "marginals",
    "maxsim",
    "mutual_mass_match",
    "mutual_match",
    "mutual_nearest",
    "partial_match",
    "partial_sinkhorn",
    "priced_match",
    "priced_sinkhorn",
    "relaxed_match",
    "relaxed_sinkhorn",
    "released",
    "rollout_matrix",
    "sinkhorn",
    "structural_match",
    "structural_similarity",
    "unmatched_term",
]


def __getattr__(name: str) -> Any:
    if name == "left_out":
        warnings.warn("ot.left_out is ot.unmatched_term now", DeprecationWarning, stacklevel=2)
        return unmatched_term
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
