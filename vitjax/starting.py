"""What both programs do first: look at the machine, open the output folder, keep what is compiled."""

import pathlib

import jax

from vitjax import doctor, parallel, program, record
from vitjax.console import say
from vitjax.weights import cache_dir


def start(workdir: str) -> pathlib.Path:
    """Looks at the machine and opens the output folder, before any work is done."""
    parallel.initialize_distributed()
    out = program.open_workdir(workdir, writes=parallel.is_main_process())
    if reason := doctor.idle_accelerator():
        raise program.UserError(reason)
    jax.config.update("jax_compilation_cache_dir", str(cache_dir() / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    device = record.device()
    say(f"computing on {device['count']} x {device['kind']}, {device['processes']} process(es)")
    return out


def refuse_training_run(workdir: str) -> None:
    """Raises where train.py keeps a run: results of another kind would take the place of its own."""
    if (pathlib.Path(workdir) / "run.json").is_file():
        raise program.UserError(
            f"--workdir {workdir} is a run of train.py, whose results.json would be lost; name another folder"
        )
