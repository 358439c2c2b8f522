r"""INSTRE: 1,250 queries, cut to their boxes, in 27,293 images.

python eval.py --config configs/instre.py --workdir runs/instre --config.data.images=DIR \
    --config.index.path=GALLERY

DIR holds INSTRE-S1/, INSTRE-S2/ and INSTRE-M/, and gnd_instre.mat (or gnd_instre.pkl, read as data) with the
queries of Iscen et al., CVPR 2017. mAP by trapezoids over the whole ranking, as there, and mAP@100, as ELViS
reports it; recall at 1, 5 and 10. run.trec lists the first 2,000 ranks.

mAP@100, for comparison: ELViS, trained on landmarks, 81.1.
Backbones: families of configs/folder.py, deit, cvt, swin, resnet; `--config configs/instre.py:dinov3`.
"""

from configs.common import benchmark
from vitjax.config import EvalConfig


def get_config(arg: str = "") -> EvalConfig:
    return benchmark("instre", arg)
