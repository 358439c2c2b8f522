r"""CvT-13 row of "Beyond the CLS Token" (BMVC 2022): CLS as global feature, attention rollout as marginals.

python eval.py --config configs/paper_cvt.py --workdir runs/paper_cvt --config.data.gallery=DIR

Every image of DIR is searched for among the others; its sub-folders are the classes. The paper reports
P@1, pooled then reranked: CUB200 71.75, 73.72; Cars196 80.55, 83.66; SOP 77.15, 77.15 (there with the
"complement" marginals: `--config.rerank.marginals=complement`).

What differs: the paper's models were trained on each data set and project CLS and patches to 128 numbers
before the 14 x 14 patches are averaged to 7 x 7. These are ImageNet weights at full width, and a
checkpoint's own head (`--config.weights=FILE`) is left out. Rollout is the clean form, whose rows stay
stochastic and where an image's weights do not depend on the other images of its batch; the released form is
an option of `vitjax.ot` for one image at a time.
"""

from configs.common import no_argument, paper_cvt
from vitjax.config import EvalConfig


def get_config(arg: str = "") -> EvalConfig:
    no_argument(arg)
    return paper_cvt()
