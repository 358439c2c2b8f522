r"""Mapillary Street-Level Sequences, validation: 740 queries in Copenhagen and San Francisco, 18,871 photos.

python eval.py --config configs/msls.py:cvt --workdir runs/msls_cvt --config.data.images=DIR \
    --config.index.path=GALLERY

DIR holds train_val/cph and train_val/sf of the download (mapillary.com/dataset/places). As in the released
evaluation, a photo within 25 m by UTM is relevant whatever its direction, each city is searched on its own,
panoramas and rows outside of the subtask are left out, and so are queries without a relevant photo: 498
remain in Copenhagen, 242 in San Francisco. Recall and MAP at 1, 5, 10 and 20, per city and together.
`--config.data.angle=40` also asks for the direction, `--config.data.subtask=d2n` for day against night.
Backbones: cvt, swin, deit, resnet, and the families of configs/folder.py.

Recall@1 of "Beyond the CLS Token" (BMVC 2022) with a CvT-13 that NetVLAD taught: 60.68 pooled, 66.35 reranked
("complement" marginals, frames squashed to a square, both as here). Weights here are ImageNet's, so expect
less; a model of your own: `--config.weights=FILE`.
"""

from configs.common import paper_backbone
from vitjax.config import EvalConfig


def get_config(arg: str = "") -> EvalConfig:
    arg = arg or "cvt"
    config = paper_backbone(arg)
    config.data.source, config.data.on_bad_image, config.data.resize = "msls", "error", "squash"
    if arg == "cvt":
        config.rerank.marginals = "complement"
    return config
