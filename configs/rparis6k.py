r"""Revisited Paris: 70 queries, cut to their boxes, in 6,322 images; easy, medium and hard.

python eval.py --config configs/rparis6k.py --workdir runs/rparis6k --config.data.images=DIR

DIR holds gnd_rparis6k.pkl (cmp.felk.cvut.cz/revisitop/data/datasets/rparis6k) and, anywhere below it, the
images of paris_1-v1.tgz and paris_2-v1.tgz (robots.ox.ac.uk/~vgg/data/parisbuildings). The pickle is read as
data, nothing in it is run. mAP and mP@1, 5, 10 as the released evaluation computes them (Radenovic et al.,
CVPR 2018): trapezoids under the curve, junk taken out of the ranking, the whole of it counted. Distractors
(+1M) are not read.

mAP hard, for comparison: DINOv3-7B's pooled vectors have 87.1. Weights here are a ViT-S/14's.
Backbones: families of configs/folder.py, deit, cvt, swin, resnet; `--config configs/rparis6k.py:dinov3`.
"""

from configs.common import benchmark
from vitjax.config import EvalConfig


def get_config(arg: str = "") -> EvalConfig:
    return benchmark("rparis6k", arg)
