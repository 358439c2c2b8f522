r"""ResNet-50 as in DIML (ICCV 2021): mean of the map as global feature, 4 x 4 positions, cross-correlation.

python eval.py --config configs/paper_resnet.py --workdir runs/paper_resnet --config.data.gallery=DIR

Every image of DIR is searched for among the others; its sub-folders are the classes. Recall@1 that DIML
reports with its own training: CUB200 68.15 (multi-similarity loss), Cars196 87.01 (proxy anchor), SOP
79.26 (margin).

What differs: DIML's models were trained on each data set and project every position to a short vector;
these are torchvision's ImageNet weights at full width, and a checkpoint's own head
(`--config.weights=FILE`) is left out. DIML enlarges the 7 x 7 map to 16 x 16 (bilinear) before it
averages to 4 x 4; here 7 x 7 is averaged directly, in overlapping cells.
"""

from configs.common import no_argument, paper_resnet
from vitjax.config import EvalConfig


def get_config(arg: str = "") -> EvalConfig:
    no_argument(arg)
    return paper_resnet()
