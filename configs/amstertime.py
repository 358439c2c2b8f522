r"""AmsterTime: 1,231 historical photos, each searched for among today's photos of the same places.

python eval.py --config configs/amstertime.py --workdir runs/amstertime --config.data.images=DIR

DIR holds new/ and old/ of AmsterTime-v1.0.zip (data.4tu.nl), whose photos of one place have one name; or
images/test/database and images/test/queries with names @UTM_EAST@UTM_NORTH@...@.jpg. Recall and MAP at 1, 5,
10, 20.

Recall@1, for comparison: FoL 64.6 pooled and 70.1 reranked, BoQ 63.0, both trained for places.
Backbones: families of configs/folder.py, deit, cvt, swin, resnet; `--config configs/amstertime.py:dinov3`.
"""

from configs.common import benchmark
from vitjax.config import EvalConfig


def get_config(arg: str = "") -> EvalConfig:
    return benchmark("amstertime", arg)
