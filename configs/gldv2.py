r"""Google Landmarks Dataset v2, retrieval: 1,129 test images in an index of 761,757.

python eval.py --config configs/gldv2.py --workdir runs/gldv2 --config.data.images=DIR \
    --config.index.path=GALLERY

DIR holds index/ and test/ of the download (github.com/cvdfoundation/google-landmark), and index.csv and
retrieval_solution_v2.1.csv in it, in metadata/ or in ground_truth/. mAP@100 of the private and the public
part, as the released metrics compute it: the sum of precisions at hits over min(relevant images, 100).
Queries that the solution ignores are left out. Keep the descriptors: its images are described
once.

mAP@100 of the private part, for comparison: ELViS, trained on its other images, 56.9.
Backbones: families of configs/folder.py, deit, cvt, swin, resnet; `--config configs/gldv2.py:dinov3`.
"""

from configs.common import benchmark
from vitjax.config import EvalConfig


def get_config(arg: str = "") -> EvalConfig:
    return benchmark("gldv2", arg)
