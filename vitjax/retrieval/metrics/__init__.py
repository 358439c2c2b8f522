"""Metrics of rankings: definitions, ground truth, intervals, TREC files."""

from vitjax.retrieval.metrics.definitions import DEFINITIONS as DEFINITIONS
from vitjax.retrieval.metrics.definitions import ON_SHORT as ON_SHORT
from vitjax.retrieval.metrics.definitions import first_hit as first_hit
from vitjax.retrieval.metrics.definitions import positives_within as positives_within
from vitjax.retrieval.metrics.definitions import relevance_metrics as relevance_metrics
from vitjax.retrieval.metrics.definitions import retrieval_metrics as retrieval_metrics
from vitjax.retrieval.metrics.definitions import same_label as same_label
