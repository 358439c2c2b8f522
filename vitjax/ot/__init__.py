"""Optimal transport between patch tokens; knows arrays only."""

from vitjax.ot import marginals, released
from vitjax.ot.matches import (
    chamfer_match,
    left_out,
    mutual_mass_match,
    mutual_match,
    partial_match,
    priced_match,
    relaxed_match,
)
from vitjax.ot.nearest import chamfer, mutual_nearest
from vitjax.ot.outputs import PairMarginals, StructuralMatch, Transport
from vitjax.ot.priced import priced_sinkhorn
from vitjax.ot.rollout import attention_rollout, rollout_matrix
from vitjax.ot.similarity import structural_match, structural_similarity
from vitjax.ot.solve import partial_sinkhorn, relaxed_sinkhorn, sinkhorn

__all__ = [
    "PairMarginals",
    "StructuralMatch",
    "Transport",
    "attention_rollout",
    "chamfer",
    "chamfer_match",
    "left_out",
    "marginals",
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
]
