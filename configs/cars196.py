r"""Cars196, zero-shot: 8,131 images of cars of classes 99 to 196, each searched for among the others.

python eval.py --config configs/cars196.py:swin --workdir runs/cars196_swin --config.data.images=DIR

DIR holds car_ims/ and cars_annos.mat, or cars_train/, cars_test/, devkit/ and
cars_test_annos_withlabels.mat (both layouts of ai.stanford.edu/~jkrause/cars, and its mirrors). Classes are
halved by class id, not by the order of folder names. Backbones: swin, cvt, deit, resnet, and the
families of configs/folder.py; pooled search (base) and reranking (structural) come from the same run.

P@1 of "Beyond the CLS Token" (BMVC 2022), pooled then reranked, of models trained on classes 1 to 98: DeiT-S
76.27, 72.74; CvT-13 80.55, 83.66; Swin-T 83.32, 85.07. DIML (ICCV 2021) has 87.01 with ResNet-50. Weights
here are ImageNet's, so expect other numbers; a model of your own: `--config.weights=FILE`.
"""

from configs.common import paper_backbone
from vitjax.config import EvalConfig


def get_config(arg: str = "") -> EvalConfig:
    config = paper_backbone(arg or "swin")
    config.data.source, config.data.on_bad_image = "cars", "error"
    return config
