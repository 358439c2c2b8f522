r"""ILIAS core: 1,232 image queries in the 4,715 positive images of 1,000 objects, without distractors.

python eval.py --config configs/ilias.py --workdir runs/ilias --config.data.images=DIR

DIR is the unpacked ilias_core.tar (vrg.fel.cvut.cz/ilias_data), or the folder it lies in. mAP@1k, as the
released evaluation computes it: the sum of precisions at hits over min(positives, 1000); recall at 1, 5 and
10. Published figures are of 5 or 100 million distractors of YFCC100M, which are not read: those here are
higher.
Backbones: families of configs/folder.py, deit, cvt, swin, resnet; `--config configs/ilias.py:dinov3`.
"""

from configs.common import benchmark
from vitjax.config import EvalConfig


def get_config(arg: str = "") -> EvalConfig:
    return benchmark("ilias", arg)
