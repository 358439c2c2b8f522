r"""Place recognition on Mapillary SLS: CvT-13 learns a teacher's embeddings, and hard negatives.

python train.py --config configs/msls_distill.py --workdir runs/msls_distill --config.data.dir=DIR \
    --config.distill.vectors=FILE.npy

DIR is the unpacked download, FILE.npy a vector of 128 numbers for each photo to learn from: the queries of
the cities in alphabetical order, then the photos they are looked for among. Instead of vectors a model of
ours: --config.distill.vectors= --config.distill.teacher=NAME --config.distill.teacher_weights=FILE.

The recipe of "Beyond the CLS Token" (BMVC 2022): 128 numbers, frames squashed to 224 pixels, a query with one
photo at most 10 m away and five hard negatives more than 25 m away, ten times the gap to the teacher beside
a triplet loss, Adam at 1e-4; the best recall@5 of the held-out cities is kept. What differs: the batch is 48
such groups instead of one, and the rate stays for warm-up and cosine. The paper reports no number for this
training alone, and we have not run it: the data is not ours to give.
"""

from configs.common import no_argument
from vitjax.config.train_config import (
    AugmentConfig,
    CheckpointConfig,
    DistillConfig,
    MetricConfig,
    OptimConfig,
    StudentConfig,
    TrainConfig,
    TrainDataConfig,
)


def get_config(arg: str = "") -> TrainConfig:
    no_argument(arg)
    return TrainConfig(
        task="distill",
        batch_size=336,
        epochs=30.0,
        model=StudentConfig(name="cvt_13", weights="hf:microsoft/cvt-13", img_size=224, dtype="bfloat16"),
        metric=MetricConfig(embed_dim=128),
        distill=DistillConfig(vectors="teacher.npy", negatives=5, mine_every=200, pool=5000),
        data=TrainDataConfig(source="msls", dir="msls", resize="squash", workers=8, processes=4),
        augment=AugmentConfig(jitter=0.2),
        optim=OptimConfig(lr=1e-4, warmup_epochs=0.5, weight_decay=4e-4),
        checkpoint=CheckpointConfig(every=200),
    )
