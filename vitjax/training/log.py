"""Metrics of a run, step by step: metrics.jsonl always, TensorBoard and Weights & Biases where installed."""

import importlib.util
import json
import pathlib
from typing import Any

from vitjax.cli.run_files import plain
from vitjax.errors import UserError
from vitjax.system.files import parse_json, replacing
from vitjax.training.output import SILENT, Output

FILE = "metrics.jsonl"


class MetricLog:
    """Writes one line per logged step, at once.

    Args:
        out: the run's folder.
        step: where the run resumes: lines of later steps, which will come again, are taken out.
        config: plain data, for those who show it.
        wandb: project; "" = none.
        output: is told of lines that cannot be read.

    Raises:
        UserError: a project is named, but the package is not installed.
    """

    def __init__(
        self,
        out: pathlib.Path,
        *,
        step: int,
        config: dict[str, Any],
        wandb: str = "",
        output: Output = SILENT,
    ) -> None:
        path = out / FILE
        if path.exists():
            lines = path.read_bytes().splitlines()
            steps = [_step(line) for line in lines]
            bad = [i for i, found in enumerate(steps[:-1], 1) if found is None]
            if bad:  # the last one may have been cut off by a kill
                output.warn(f"{path}: line {', '.join(map(str, bad[:8]))} cannot be read and is left out")
            with replacing(path, "wb") as file:
                file.writelines(
                    line + b"\n"
                    for line, found in zip(lines, steps, strict=True)
                    if found is not None and found <= step
                )
        self._file = path.open("a", encoding="utf-8")
        self._board: Any = None
        self._wandb: Any = None
        if importlib.util.find_spec("tensorboardX"):
            from tensorboardX import SummaryWriter  # pyright: ignore[reportMissingImports]

            self._board = SummaryWriter(str(out / "tensorboard"), purge_step=step + 1)
        if wandb:
            if not importlib.util.find_spec("wandb"):
                raise UserError(f"wandb is {wandb!r}, but the package is not installed: pip install wandb.")
            import wandb as service  # pyright: ignore[reportMissingImports]

            self._wandb = service.init(
                project=wandb, dir=str(out), config=config, id=out.absolute().name, resume="allow"
            )

    def write(self, step: int, figures: dict[str, Any]) -> None:
        """Writes the figures of one step.

        Raises:
            OSError: the disk is full, for instance.
        """
        self._file.write(json.dumps(plain({"step": step, **figures}), allow_nan=False) + "\n")
        self._file.flush()
        numbers = {name: value for name, value in figures.items() if isinstance(value, int | float)}
        if self._board is not None:
            for name, value in numbers.items():
                self._board.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(numbers, step=step)

    def close(self) -> None:
        """Ends all files."""
        self._file.close()
        if self._board is not None:
            self._board.close()
        if self._wandb is not None:
            self._wandb.finish()


def last_step(path: pathlib.Path) -> int:
    """The last step that a file of lines knows; 0 where there is none that can be read."""
    if not path.is_file():
        return 0
    return max((_step(line) or 0 for line in path.read_bytes().splitlines()), default=0)


def _step(line: bytes) -> int | None:
    """Step of a line; None where it cannot be read, cut off by a kill for instance."""
    try:
        step = parse_json(line)["step"]
    except (ValueError, KeyError, TypeError):
        return None
    return step if isinstance(step, int) else None
