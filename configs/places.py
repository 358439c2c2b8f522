r"""Place recognition: which reference photos show the place of a query photo?

python eval.py --config configs/places.py --workdir runs/places \
    --config.data.query=DIR --config.data.gallery=DIR --config.data.ground_truth=FILE.json

FILE.json maps the index of a query photo to the indices of the right gallery photos; an index is a photo's
position in file-name order. Expected on the corridor set (111 + 111 photos of 160 x 120): see README.

Frames are fitted by shorter side and centre crop, bilinear: a place is recognised by its geometry, which
squashing to a square distorts, and small frames are enlarged here, where bicubic sharpening adds edges that
are not in the place (pooled recall@1 on the corridor set: squashed bicubic .532, centre crop bicubic .622,
centre crop bilinear .676).
"""

from configs.parts import dinov2_saliency, no_argument
from vitjax.config import EvalConfig


def get_config(arg: str = "") -> EvalConfig:
    no_argument(arg)
    config = dinov2_saliency()
    config.data.resize = "crop"
    config.data.interpolation = "bilinear"
    config.rerank.top_k = 20
    return config
