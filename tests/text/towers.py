"""A tiny model with two towers and a tokenizer for it, under a name of the table of models."""

import pathlib

import pytest

from tests.text import tiny
from vitjax.config import DataConfig, EvalConfig, ModelConfig, RerankConfig
from vitjax.pretrained import HALF, MODELS, InputSpec, ModelCard, TextSpec

NAME = "tiny_towers"
SIZES = {"embed_dim": 24, "depth": 2, "num_heads": 2, "eps": 1e-5}
CARD = ModelCard(
    "TwoTowers",
    {
        "image": SIZES | {"img_size": 32, "patch_size": 8, "num_classes": 0, "pre_norm": True},
        "text": SIZES | {"vocab_size": len(tiny.pieces()), "context_length": 12, "projection_dim": 16},
        "projection_dim": 16,
    },
    input=InputSpec(32, 1.0, HALF, "bilinear"),
    text=TextSpec(pad="end"),
)


@pytest.fixture(scope="module")
def tokenizer_file(tmp_path_factory) -> str:
    """Enters the model into the table; returns the file of its tokenizer."""
    tiny.libraries()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(MODELS, NAME, CARD)
        yield str(tiny.openai(tmp_path_factory.mktemp("tokenizer")))


def config(tokenizer: str, space: str = "joint", **data) -> EvalConfig:
    return EvalConfig(
        tokenizer=tokenizer,
        batch_size=4,
        model=ModelConfig(name=NAME, space=space),
        data=DataConfig(**data),
        rerank=RerankConfig(tau=0.5, epsilon=0.05, iterations=50),
    )


def images(folder: pathlib.Path) -> pathlib.Path:
    from tests.photos import write_folder

    return write_folder(folder / "shop", kinds=3, variants=2)
