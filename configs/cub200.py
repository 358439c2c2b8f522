r"""CUB-200-2011, zero-shot: 5,924 birds of classes 101 to 200, each searched for among the others.

python eval.py --config configs/cub200.py:swin --workdir runs/cub200_swin --config.data.images=DIR

DIR is the unpacked CUB_200_2011.tgz (data.caltech.edu, record 65de6-vp158). Backbones: swin, cvt, deit,
resnet, and the families of configs/folder.py; pooled search (base) and reranking (structural) come from the
same run. With `--config.index.path=GALLERY` the descriptors are kept for the next one.

P@1 of "Beyond the CLS Token" (BMVC 2022), pooled then reranked, of models trained on classes 1 to 100: DeiT-S
70.39, 70.12; CvT-13 71.75, 73.72; Swin-T 74.47, 74.98. DIML (ICCV 2021) has 68.15 with ResNet-50. Weights
here are ImageNet's, so expect other numbers; a model of your own: `--config.weights=FILE`. RP and MAP@R are
those of Musgrave et al.; names that end in _released count R as the papers' code does.
"""

from configs.common import paper_backbone
from vitjax.config import EvalConfig


def get_config(arg: str = "") -> EvalConfig:
    config = paper_backbone(arg or "swin")
    config.data.source, config.data.on_bad_image = "cub", "error"
    return config
