r"""Stanford Online Products, official test: 60,502 photos of 11,316 products, searched in themselves.

python eval.py --config configs/sop.py:swin --workdir runs/sop_swin --config.data.images=DIR \
    --config.index.path=GALLERY

DIR is the unpacked Stanford_Online_Products.zip (cvgl.stanford.edu/projects/lifted_struct). Descriptors are
kept in GALLERY, on disk, also for the next run. Backbones: swin, cvt, deit, resnet, and the families of
configs/folder.py; pooled search (base) and reranking (structural) come from the same run.

P@1 of "Beyond the CLS Token" (BMVC 2022), pooled then reranked, of models trained on the other half: DeiT-S
78.13, 77.65; CvT-13 77.15, 77.15 ("complement" marginals, as here); Swin-T 79.42, 80.02 (partial transport,
mass .9, as here). DIML (ICCV 2021) has 79.26 with ResNet-50. Weights here are ImageNet's, so expect other
numbers; a model of your own: `--config.weights=FILE`.
"""

from configs.common import paper_backbone
from vitjax.config import EvalConfig


def get_config(arg: str = "") -> EvalConfig:
    arg = arg or "swin"
    config = paper_backbone(arg)
    config.data.source, config.data.on_bad_image = "sop", "error"
    if arg == "cvt":
        config.rerank.marginals = "complement"
    elif arg == "swin":
        config.rerank.mass = 0.9
    return config
