"""Token reduction: pruning and merging in training and at inference, its losses, and the cost of a model."""

from vitjax.layers.masked_attention import masked_softmax
from vitjax.sparsify import losses
from vitjax.sparsify.bucketed import Bucket, bucketed
from vitjax.sparsify.decisions import keep_count, stage_ratios
from vitjax.sparsify.flops import Count, count
from vitjax.sparsify.predictor import Predictor
from vitjax.sparsify.reducers import REDUCERS, Reducer, StepInput, make_reducer
from vitjax.sparsify.token_map import ReducedAttention, TokenMap, restore

__all__ = [
    "REDUCERS",
    "Bucket",
    "Count",
    "Predictor",
    "ReducedAttention",
    "Reducer",
    "StepInput",
    "TokenMap",
    "bucketed",
    "count",
    "keep_count",
    "losses",
    "make_reducer",
    "masked_softmax",
    "restore",
    "stage_ratios",
]
