"""Functions that experiments share; a config file itself is complete and inherits from nothing."""

from vitjax.config import EvalConfig, demo_config


def dinov2_saliency() -> EvalConfig:
    """The backbone every machine can fetch from its package index; see `vitjax.demo_config`."""
    return demo_config()


def no_argument(arg: str) -> None:
    """Refuses `--config FILE:arg` where the file has no variants."""
    if arg:
        raise ValueError(f"config argument {arg!r} is unknown; this file takes none")
