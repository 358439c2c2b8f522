"""Tokens that CLS attends to stay, the others are dropped."""

from dataclasses import dataclass

from vitjax.sparsify.reduction.base import ByAttention


@dataclass(frozen=True)
class TopK(ByAttention):
    """Keeps the tokens with the highest attention from CLS: EViT without its fused token."""

    name = "topk"
