r"""Nordland: 27,592 frames of winter, each searched for among as many of summer.

python eval.py --config configs/nordland.py --workdir runs/nordland --config.data.images=DIR \
    --config.index.path=GALLERY

DIR holds summer/ and winter/ with frames of the same names; or images/test/database and images/test/queries
with names @UTM_EAST@UTM_NORTH@...@.jpg. Relevant are frames at most 10 away, as VPR benchmarks have it; the
frames of Patch-NetVLAD's list count within 7: `--config.data.radius=17`. Recall and MAP at 1, 5, 10 and 20.

Recall@1, for comparison: ImAge 97.7, SelaVPR++ 97.2, both trained for places; FoL 62.5 pooled and 78.2
reranked. Other tables are of 2,760 queries, which are not these.
Backbones: families of configs/folder.py, deit, cvt, swin, resnet; `--config configs/nordland.py:dinov3`.
"""

from configs.common import benchmark
from vitjax.config import EvalConfig


def get_config(arg: str = "") -> EvalConfig:
    return benchmark("nordland", arg)
