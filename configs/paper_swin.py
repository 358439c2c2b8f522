r"""Swin-T row of "Beyond the CLS Token" (BMVC 2022): mean of tokens as global feature, cross-correlation.

python eval.py --config configs/paper_swin.py --workdir runs/paper_swin --config.data.gallery=DIR

Every image of DIR is searched for among the others; its sub-folders are the classes. The paper reports
P@1, pooled then reranked: CUB200 74.47, 74.98; Cars196 83.32, 85.07; SOP 79.42, 80.02 (that last one with
partial transport: `--config.rerank.mass=0.9`).

What differs: the paper's models were trained on each data set and project every token to 128 numbers.
These are ImageNet weights at full width on their own 7 x 7 grid, and a checkpoint's own head
(`--config.weights=FILE`) is left out. The paper resizes to 256 and crops 224; here the crop is what
belongs to the weights.
"""

from configs.common import no_argument, paper_swin
from vitjax.config import EvalConfig


def get_config(arg: str = "") -> EvalConfig:
    no_argument(arg)
    return paper_swin()
