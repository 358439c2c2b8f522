r"""Learn which patch tokens count when images are matched: a head of 12,450 parameters on a frozen model.

python train.py --config configs/train_rerank.py:classes --workdir runs/head --config.data.train=DIR
python train.py --config configs/train_rerank.py:views --workdir runs/head --config.data.train=DIR
python eval.py --config configs/folder.py --workdir runs/mine --config.data.gallery=DIR2 \
  --config.rerank.marginals=learned --config.rerank.head=runs/head/best.safetensors

classes: DIR has a sub-folder for each class; the last fifth of the classes by name is held out. views: photos
of anything, in sub-folders or in one folder; each is learned from beside an augmented view and a composite.
Tokens and matching are the demo's. Descriptors are computed once and kept in the run's folder (100 kB a
photo). The first evaluation is of the untrained head, which weighs all tokens alike. Fewer photos:
--config.data.per_class=4 --config.data.test_per_class=2. docs/results.md has what it gains.
"""

from configs.common import smoke
from vitjax.config import blocks_of, demo_config
from vitjax.config.train_config import (
    AugmentConfig,
    CheckpointConfig,
    HeadConfig,
    MetricConfig,
    OptimConfig,
    StudentConfig,
    TrainConfig,
    TrainDataConfig,
)


def get_config(arg: str = "classes") -> TrainConfig:
    if (arg := arg or "classes") not in ("classes", "views", "smoke"):
        raise ValueError(f"config argument {arg!r} is unknown; known: 'classes', 'views', 'smoke'")
    recipe = demo_config()
    config = TrainConfig(
        task="rerank",
        batch_size=24,
        steps=100,
        eval_start=True,
        eval_every=50,
        log_every=20,
        model=StudentConfig(name=recipe.model.name, weights=recipe.weights, img_size=recipe.model.img_size),
        metric=MetricConfig(per_class=2, held_out=0.2),
        head=HeadConfig(
            block=blocks_of(recipe.model)[-1],
            grid=recipe.model.grid,
            center=recipe.model.center,
            epsilon=recipe.rerank.epsilon,
            tau=recipe.rerank.tau,
            weight=recipe.rerank.weight,
            iterations=recipe.rerank.iterations,
            tolerance=recipe.rerank.tolerance,
        ),
        data=TrainDataConfig(train="images"),
        optim=OptimConfig(lr=2e-3, warmup_epochs=0.0, weight_decay=0.05, clip=1.0),
        checkpoint=CheckpointConfig(every=50),
    )
    if arg == "views":
        config.head.views, config.augment = 3, AugmentConfig(crop=0.4, flip=True, jitter=0.4)
    if arg == "smoke":
        config.model.name, config.head = "deit_small_patch16_224", HeadConfig(iterations=20)
    return smoke(config, arg if arg == "smoke" else "", img_size=32, embed_dim=24, depth=2, num_heads=2)
