r"""Pittsburgh 250k, test: 8,280 queries in 83,952 photos.

python eval.py --config configs/pitts250k.py --workdir runs/pitts250k --config.data.images=DIR \
    --config.index.path=GALLERY

DIR holds the photos 000/ to 010/ and queries_real/, and pitts250k_test.mat in it or in datasets/ (from the
authors of NetVLAD); or images/test/database and images/test/queries with names @UTM_EAST@UTM_NORTH@...@.jpg.
Relevant are photos within 25 m. Recall and MAP at 1, 5, 10 and 20.
Backbones: families of configs/folder.py, deit, cvt, swin, resnet; `--config configs/pitts250k.py:dinov3`.
"""

from configs.common import benchmark
from vitjax.config import EvalConfig


def get_config(arg: str = "") -> EvalConfig:
    return benchmark("pitts250k", arg)
