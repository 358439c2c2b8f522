r"""Your own images: search a folder, rerank, and look at the page.

python eval.py --config configs/folder.py --workdir runs/mine \
    --config.data.gallery=DIR --config.data.query=FILE_OR_DIR

Without `data.query` every image of the gallery is searched for among the others. Sub-folders are classes
where there are any, and then there are metrics; the page needs none. On the grocery set (1,782 photos of 81
products) precision@1 goes from 72.3 to 82.4 percent; 5 minutes on one CPU core.

`--config configs/folder.py:dinov3` takes another backbone, and so do the other configs of eval.py: a family
(dinov2, dinov2_giant, dinov3, dinov3_convnext, clip, siglip, siglip2, tipsv2, pe_core), or any name of
`vitjax models`. Their weights come from the Hugging Face hub: `pip install -e '.[hub]'`.
"""

from configs.common import preset
from vitjax.config import EvalConfig


def get_config(arg: str = "") -> EvalConfig:
    config = preset(arg)
    config.rerank.top_k = 50
    if arg == "clip":  # composites of Caltech-101 photos prefer it to the last block alone (docs/results.md)
        config.model.block = 5, 11
    return config
