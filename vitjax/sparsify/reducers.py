"""Token reduction methods behind one interface: pruning, merging, and learned tokens in the place of all.

Each method is a small frozen class; `REDUCERS` names those that a config can name. An object of any class
with the interface of `Reducer` can be handed to `vitjax.build(name, reduce=...)`: nothing has to be
registered.

All but `DynamicViT` and those with learned tokens (patchmerger, sit, sinkhorn) work with the weights of any
plain ViT as they are. Different from the papers' code: tokens stay in raster order after every step, and
prefix tokens are neither pruned nor merged. `vitjax.sparsify.reduction` has a file for each, with the steps
of the published code.
"""

import dataclasses
import difflib
from typing import Any

from vitjax.errors import UserError
from vitjax.sparsify.reduction.ats import ATS
from vitjax.sparsify.reduction.base import ByAttention, EveryBlock, KeepRatio, Reducer, StepInput
from vitjax.sparsify.reduction.diffrate import DiffRate
from vitjax.sparsify.reduction.dpcknn import DpcKnn
from vitjax.sparsify.reduction.dynamicvit import BUDGETS, SLACK, DynamicViT
from vitjax.sparsify.reduction.evit import EViT
from vitjax.sparsify.reduction.kmedoids import KMedoids
from vitjax.sparsify.reduction.mctf import MCTF
from vitjax.sparsify.reduction.patchmerger import PatchMerging
from vitjax.sparsify.reduction.pitome import PiToMe
from vitjax.sparsify.reduction.random_tokens import RandomTokens
from vitjax.sparsify.reduction.sinkhorn import SinkhornTokens
from vitjax.sparsify.reduction.sit import SiT
from vitjax.sparsify.reduction.tofu import ToFu
from vitjax.sparsify.reduction.tome import ToMe, merge
from vitjax.sparsify.reduction.topk import TopK
from vitjax.sparsify.reduction.uniform import UniformTokens, spread_order

__all__ = [
    "ATS", "BUDGETS", "MCTF", "REDUCERS", "SLACK", "ByAttention", "DiffRate", "DpcKnn", "DynamicViT", "EViT",
    "EveryBlock", "KMedoids", "KeepRatio", "PatchMerging", "PiToMe", "RandomTokens", "Reducer", "SiT",
    "SinkhornTokens", "StepInput", "ToFu", "ToMe", "TopK", "UniformTokens", "make_reducer", "merge",
    "spread_order",
]  # fmt: skip

REDUCERS: dict[str, type[Reducer]] = {
    reducer.name: reducer
    for reducer in (
        DynamicViT, TopK, EViT, ToMe, RandomTokens, UniformTokens,
        DpcKnn, KMedoids, ATS, PiToMe, ToFu, DiffRate, MCTF,
        PatchMerging, SiT, SinkhornTokens,
    )
}  # fmt: skip


def make_reducer(name: str, **fields: Any) -> Reducer:
    """Returns the method of that name with the fields that it has; the others do not concern it.

    Raises:
        UserError: an unknown name.
    """
    if name not in REDUCERS:
        near = difflib.get_close_matches(name, REDUCERS, n=1)
        hint = f"did you mean {near[0]!r}? Known" if near else "known"
        raise UserError(f"reduce {name!r} is unknown; {hint}: {', '.join(map(repr, REDUCERS))}")
    own = {field.name for field in dataclasses.fields(REDUCERS[name])}
    if "budget" not in own and fields.get("budget", "fixed") != "fixed":
        raise UserError(f"budget {fields['budget']!r} needs a predictor, which reduce {name!r} has not.")
    return REDUCERS[name](**{key: value for key, value in fields.items() if key in own})
