"""Fewer tokens: what a model costs, counted on the model itself."""

from vitjax.sparsify.flops import Count, count

__all__ = ["Count", "count"]
