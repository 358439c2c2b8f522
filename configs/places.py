r"""Place recognition: which reference photos show the place of a query photo?

python eval.py --config configs/places.py --workdir runs/places \
    --config.data.query=DIR --config.data.gallery=DIR --config.data.ground_truth=FILE.json

FILE.json maps a query photo to the relevant gallery photos, {"query.jpg": ["a.jpg", "b.jpg"]}, or their
positions in file-name order, {"0": [3, 4]}. Without it, photos named @UTM_EAST@UTM_NORTH@...@.jpg say
where they were taken: relevant are those within 25 m (--config.data.radius). On the corridor set
(111 + 111 photos of 160 x 120) recall@1 goes from 51.4 to 97.3 percent.

Frames are squashed to a square, bilinear. A centre crop would cut a quarter off a 4:3 frame, and what lies
there is what tells two places of one corridor apart once patches are matched; frames smaller than the model's
input are enlarged, where bicubic filters add edges that are not in the place. Pooled search alone prefers the
undistorted crop. Corridor set, recall@1 pooled, then reranked among 20: squash bilinear .514, .964; squash
bicubic .532, .946; crop bilinear .676, .946; crop bicubic .622, .937.

A hundred candidates are reranked, as in the field (Patch-NetVLAD, R2Former): pooled vectors of a model that
was not trained for places leave the place outside of the first 20 now and then.

`--config configs/places.py:dinov3` takes another backbone; see configs/folder.py.
"""

from configs.common import preset
from vitjax.config import EvalConfig


def get_config(arg: str = "") -> EvalConfig:
    config = preset(arg)
    config.data.resize = "squash"
    config.data.interpolation = "bilinear"
    config.rerank.top_k = 100
    if arg == "clip":  # measured (docs/results.md): recall@1 .955, of the last block .829
        config.model.block = 5
    return config
