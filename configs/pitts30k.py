r"""Pittsburgh 30k, test: 6,816 queries in 10,000 photos.

python eval.py --config configs/pitts30k.py --workdir runs/pitts30k --config.data.images=DIR

DIR holds the photos 000/ to 006/ and queries_real/, and pitts30k_test.mat in it or in datasets/ (from the
authors of NetVLAD); or images/test/database and images/test/queries with names @UTM_EAST@UTM_NORTH@...@.jpg.
Relevant are photos within 25 m. Recall and MAP at 1, 5, 10 and 20.

Recall@1, for comparison: SelaVPR++ 94.4, ImAge 94.1, both trained for places.
Backbones: families of configs/folder.py, deit, cvt, swin, resnet; `--config configs/pitts30k.py:dinov3`.
"""

from configs.common import benchmark
from vitjax.config import EvalConfig


def get_config(arg: str = "") -> EvalConfig:
    return benchmark("pitts30k", arg)
