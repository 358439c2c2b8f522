r"""DeiT-S row of "Beyond the CLS Token" (BMVC 2022): CLS as global feature, softmax marginals.

python eval.py --config configs/paper_deit.py --workdir runs/paper_deit --config.data.gallery=DIR

Every image of DIR is searched for among the others; its sub-folders are the classes. The paper reports
P@1, pooled then reranked: CUB200 70.39, 70.12; Cars196 76.27, 72.74; SOP 78.13, 77.65: DeiT's tokens do
not gain.

What differs: the paper's models were trained on each data set and project CLS and patches to 128 numbers
before the 14 x 14 patches are averaged to 7 x 7. These are ImageNet weights at full width, and a
checkpoint's own head (`--config.weights=FILE`) is left out. The paper resizes to 256 and crops 224; here
the crop is what belongs to the weights.
"""

from configs.common import no_argument, paper_deit
from vitjax.config import EvalConfig


def get_config(arg: str = "") -> EvalConfig:
    no_argument(arg)
    return paper_deit()
