"""run.json at the start of a run, and results.json at its end."""

import pathlib
from dataclasses import asdict
from typing import Any

from vitjax import doctor, sharding
from vitjax.cli import run_files
from vitjax.config.fields import to_dict
from vitjax.config.old_names import with_current_names
from vitjax.config.train_config import TrainConfig
from vitjax.data.transforms import Preprocess
from vitjax.system.files import read_json, read_number
from vitjax.training.output import SILENT, Output
from vitjax.training.prepare import Run
from vitjax.training.session import Progress, Session

CHANGES = 8  # of a config that are printed


def summarize(run: Run, step: int, progress: Progress, session: Session, seconds: float) -> dict[str, Any]:
    """Everything results.json holds; `seconds` are those of this start."""
    config = run.config
    skipped = [
        {"side": "train", "index": i, "name": run.feed.source.names[i], "reason": reason}
        for i, reason in sorted(run.feed.bad.items())
    ]
    skipped += [{"side": "test", **asdict(item)} for item in run.evaluation.loader.skipped]
    return {
        "task": config.task,
        "stopped": session.stop.reason,
        "notes": list(run.left_out),
        "steps": run.steps,
        "epochs": run.feed.epochs(step),
        "best": progress.best,
        **({"best_raw": progress.best_raw} if config.eval_raw else {}),
        "evaluated_step": progress.evaluated,
        "checkpoints": session.saves.steps(),
        "steps_skipped": progress.skipped,
        "images_per_second": session.clock.overall(),
        "seconds": {"this_start": seconds},
        "skipped": skipped,
        "device": run_files.device(),
        "versions": doctor.versions(),
        "git_commit": run_files.git_commit(),
        "config": to_dict(config),
        "metrics": {"train_loss": progress.train_loss, **progress.metrics},
        "step": step,
    }


def last_pace(path: pathlib.Path) -> float:
    """Images per second in results.json, for older checkpoints, which lack the clock; 0 if unknown."""
    return float(read_number(path, "images_per_second"))


def note_run(config: TrainConfig, recipe: Preprocess, out: pathlib.Path, *, output: Output = SILENT) -> None:
    """Writes the run's initial configuration, and says where the present one differs from it."""
    path, now = out / "run.json", run_files.plain({"config": to_dict(config), "input": asdict(recipe)})
    if path.exists():
        if then := _initial(path, output):
            then["config"] = with_current_names(config, then["config"])
        old, new = flat({name: then.get(name, now[name]) for name in now}), flat(now)
        changed = [name for name in {**old, **new} if old.get(name) != new.get(name)]
        if changed:
            some = ", ".join(
                f"{name}: {old.get(name, 'none')} -> {new.get(name, 'none')}" for name in changed[:CHANGES]
            )
            more = f", and {len(changed) - CHANGES} more" if len(changed) > CHANGES else ""
            output.warn(f"differs from the run's initial configuration: {some}{more}")
        return
    if sharding.is_main_process():
        whole = now | {"versions": doctor.versions(), "git_commit": run_files.git_commit()}
        run_files.write_json(path, whole | {"device": run_files.device()})


def _initial(path: pathlib.Path, output: Output) -> dict[str, Any]:
    """What is written of a run's beginning; nothing where it cannot be read, which is said."""
    try:
        then = read_json(path)
        if isinstance(then["config"], dict):
            return then
    except (ValueError, KeyError, TypeError):
        pass
    output.warn(f"{path} cannot be read: whether the config is the initial one is unknown")
    return {}


def flat(tree: dict[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested data as text by dotted name."""
    found = {}
    for name, value in tree.items():
        found |= flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: repr(value)}
    return found
