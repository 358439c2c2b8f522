"""Atomic asynchronous Orbax checkpoints with checksums.

A step's folder counts once `whole.json` lies in it, which is renamed into place after all else was written
and read back: a save that was killed or failed is never the latest. That file holds a hash of every file, so
that damage is found and named before anything is loaded, and a checksum of the bits of every leaf, taken on
the devices before the save and compared after a load: a run resumes with what was saved, on any devices.
The last finished step is also noted beside the folder, in `checkpoints.json`: a folder that was removed, or
whose disk is not mounted, is not taken for a run that has not begun.
"""

import concurrent.futures
import hashlib
import json
import pathlib
import shutil
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, UInt32

from vitjax.cli.run_files import plain
from vitjax.errors import CheckpointError
from vitjax.system.files import read_json, read_number, replacing

MANIFEST = "whole.json"
_ITEM = "state"
_PARTIAL = ".orbax-checkpoint-tmp"


class Checkpoints:
    """The checkpoints of one run, one folder per step.

    Args:
        root: folder of the folders; made by the first save.
        keep: last ones that are kept.
        writes: whether this process writes manifests and deletes; one of a run does.
    """

    def __init__(self, root: pathlib.Path, *, keep: int, writes: bool = True) -> None:
        self.root: pathlib.Path = root.absolute()
        self._keep, self._writes = keep, writes
        self._record = self.root.parent / f"{self.root.name}.json"
        self._thread = concurrent.futures.ThreadPoolExecutor(1, "checkpoint")
        self._pending: concurrent.futures.Future | None = None
        self._pending_step = -1
        self._known = set(self.steps())  # the same in every process, also while the manifest is being written
        if writes:
            for scrap in self.root.glob(f"*{_PARTIAL}*"):
                shutil.rmtree(scrap, ignore_errors=True)

    def steps(self) -> list[int]:
        """Steps whose save was finished, rising; those under way do not count."""
        return sorted(
            int(path.parent.name) for path in self.root.glob(f"[0-9]*/{MANIFEST}") if _is_save(path.parent)
        )

    def unfinished(self) -> list[int]:
        """Steps whose folder lacks its manifest: killed on the way, or damaged since."""
        folders = [path for path in self.root.glob("[0-9]*") if path.is_dir() and _is_save(path)]
        return sorted({int(path.name) for path in folders} - set(self.steps()))

    def recorded(self) -> int:
        """The last step whose save was finished, as noted beside the folder; 0 where nothing is noted."""
        return int(read_number(self._record, "last"))

    def notes(self, step: int) -> dict[str, Any]:
        """What was noted with a step, before its files are checked; nothing where that cannot be read."""
        return (_read(self.root / str(step) / MANIFEST) or {}).get("notes", {})

    def latest(self) -> int | None:
        """The last step whose save was finished; None where there is none."""
        steps = self.steps()
        return steps[-1] if steps else None

    def save(self, step: int, state: Any, notes: dict[str, Any], *, prune: bool = True) -> None:
        """Starts to write a state; returns once it is copied off the devices.

        Args:
            step: its number; nothing happens where that step is there already.
            state: a pytree of arrays.
            notes: plain data kept with it; a number that is not finite becomes None.
            prune: whether older ones than the last `keep` go; a state that may be bad pushes none out.

        Raises:
            CheckpointError: this save, or the one before, could not be written.
        """
        self.wait()
        if step in self._known:
            return
        from orbax.checkpoint import v1 as ocp

        leaves = _named(state)
        sums = _bit_sums(leaves)
        self._pending_step = step
        try:
            if self._writes:
                self.root.mkdir(parents=True, exist_ok=True)
            response = ocp.save_checkpointables_async(
                str(self.root / str(step)), {_ITEM: leaves}, overwrite=True
            )
        except Exception as error:
            raise self._failed(step, error) from error
        shapes = {name: [list(x.shape), x.dtype.name] for name, x in leaves.items()}
        self._known.add(step)
        self._pending = self._thread.submit(
            self._finish, step, response, sums, shapes, dict(notes), prune=prune
        )

    def check(self) -> None:
        """Raises what a save that runs beside has failed with; does not wait."""
        if self._pending is not None and self._pending.done():
            self.wait()

    def wait(self) -> None:
        """Waits for the save that runs beside.

        Raises:
            CheckpointError: it could not be written.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            pending.result()
        except Exception as error:
            self._known.discard(self._pending_step)
            raise self._failed(self._pending_step, error) from error

    def load(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
        """The state of a step, and what was noted with it.

        Args:
            step: one of `steps()`.
            like: pytree of `jax.ShapeDtypeStruct` with shardings, which need not be those of the save.

        Raises:
            CheckpointError: damage, with the file and the steps that are whole; or another model's state.
        """
        from orbax.checkpoint import v1 as ocp

        manifest = self._manifest(step)
        wanted = _named(like)
        asked = {name: [list(x.shape), x.dtype.name] for name, x in wanted.items()}
        different = [
            name
            for name in {**asked, **manifest["shapes"]}
            if asked.get(name) != manifest["shapes"].get(name)
        ]
        if different:
            name = different[0]
            other = "optimiser" if all(name.startswith("opt.") for name in different) else "model"
            raise CheckpointError(
                f"checkpoint of step {step} in {self.root} is of another {other}: {name} is "
                f"{manifest['shapes'].get(name, 'not there')} in it and {asked.get(name, 'not there')} now "
                f"({len(different)} leaves differ); use the config it was made with, or another --workdir"
            )
        try:
            leaves = ocp.load_checkpointables(str(self.root / str(step)), {_ITEM: wanted})[_ITEM]
        except Exception as error:
            raise self._damaged(step, f"orbax cannot read it ({_line(error)})") from error
        sums = {name: int(x) for name, x in jax.device_get(_bit_sums(leaves)).items()}
        wrong = [name for name, value in sums.items() if value != manifest["sums"][name]]
        if wrong:
            raise self._damaged(
                step, f"{wrong[0]} and {len(wrong) - 1} more leaves hold other numbers than were saved"
            )
        state = jax.tree.unflatten(jax.tree.structure(like), [leaves[name] for name in wanted])
        return state, manifest["notes"]

    def _finish(
        self, step: int, response: Any, sums: dict, shapes: dict, notes: dict, *, prune: bool
    ) -> None:
        """Runs beside: waits for orbax, hashes what it wrote, and names it whole."""
        response.result()
        if not self._writes:
            return
        folder = self.root / str(step)
        files = {
            path.relative_to(folder).as_posix(): _hash(path)
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }
        content = {
            "step": step,
            "notes": plain(notes),
            "files": files,
            "shapes": shapes,
            "sums": {name: int(x) for name, x in jax.device_get(sums).items()},
        }
        with replacing(folder / MANIFEST) as file:
            json.dump({"sha256": _hash_of(content), "content": content}, file, allow_nan=False)
        with replacing(self._record) as file:
            json.dump({"last": step}, file)
        if prune:
            self._prune()

    def _prune(self) -> None:
        for step in self.unfinished():
            if step < self.steps()[-1]:  # never finished, and gone past since
                shutil.rmtree(self.root / str(step), ignore_errors=True)
        for step in self.steps()[: -self._keep]:
            (self.root / str(step) / MANIFEST).unlink()
            shutil.rmtree(self.root / str(step))

    def _manifest(self, step: int) -> dict[str, Any]:
        """What was written last into a step's folder.

        Raises:
            CheckpointError: that file or another is damaged.
        """
        if reason := self._damage(step):
            raise self._damaged(step, reason)
        return _read(self.root / str(step) / MANIFEST) or {}

    def _damage(self, step: int) -> str | None:
        """What is wrong with the files of a step, in words."""
        manifest = _read(self.root / str(step) / MANIFEST)
        if manifest is None:
            return f"{MANIFEST} is not as it was written"
        if manifest["step"] != step:
            return f"it is the one of step {manifest['step']} under another name: rename the folder back"
        for name, (size, digest) in manifest["files"].items():
            path = self.root / str(step) / name
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != size:
                return f"{name} has {path.stat().st_size} bytes instead of {size}"
            if _hash(path)[1] != digest:
                return f"{name} has other content than was written"
        return None

    def _damaged(self, step: int, reason: str) -> CheckpointError:
        whole = [str(other) for other in self.steps() if other != step and not self._damage(other)]
        remedy = "no other step is whole; start anew in another --workdir"
        if whole:
            delete = f"delete {self.root / str(step)} to resume from step {whole[-1]}"
            remedy = f"whole steps: {', '.join(whole)}; {delete}"
        return CheckpointError(f"checkpoint of step {step} in {self.root} is damaged: {reason}; {remedy}")

    def _failed(self, step: int, error: Exception) -> CheckpointError:
        latest = self.latest()
        known = "no checkpoint is whole yet" if latest is None else f"step {latest} is whole"
        full = any(word in str(error) for word in ("No space left", "RESOURCE_EXHAUSTED", "Disk quota"))
        what = "the disk is full; free some space" if full else "mend that"
        return CheckpointError(
            f"checkpoint of step {step} could not be written to {self.root} ({_line(error)}); {known}; "
            f"{what} and run the same command again"
        )


def _is_save(folder: pathlib.Path) -> bool:
    """Whether a folder has the name of a step as a save gives it; people put others beside them."""
    return folder.name.isascii() and folder.name.isdecimal() and str(int(folder.name)) == folder.name


def _read(path: pathlib.Path) -> dict[str, Any] | None:
    try:
        data = read_json(path)
        return data["content"] if data["sha256"] == _hash_of(data["content"]) else None
    except (ValueError, KeyError, TypeError):
        return None


def _named(tree: Any) -> dict[str, Any]:
    """Leaves by their path: other classes of the same shape load them."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


@jax.jit
def _bit_sums(leaves: dict[str, Array]) -> dict[str, UInt32[Array, ""]]:
    """Sum modulo 2^32 of every leaf's bits, each number's times an odd factor of its own.

    Any one changed number changes it, and the order of adding does not matter: the same on any devices.
    """

    def total(x: Array) -> Array:
        kinds = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}
        bits = (
            x.astype(jnp.uint8)
            if x.dtype == bool
            else jax.lax.bitcast_convert_type(x, kinds[x.dtype.itemsize])
        )
        number = jnp.arange(x.size, dtype=jnp.uint32).reshape(x.shape)
        return jnp.sum(bits.astype(jnp.uint32) * (2 * number + 1), dtype=jnp.uint32)

    return {name: total(leaf) for name, leaf in leaves.items()}


def _hash(path: pathlib.Path) -> tuple[int, str]:
    with path.open("rb") as file:
        return path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()


def _hash_of(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _line(error: BaseException) -> str:
    text = str(error)
    for words in ("No space left on device", "Permission denied", "Read-only file system"):
        if words in text:
            return words
    return " ".join(text.split())[:200] or type(error).__name__


def total_bytes(tree: Any) -> int:
    """Bytes of all arrays of a tree."""
    return sum(int(np.prod(x.shape)) * x.dtype.itemsize for x in jax.tree.leaves(tree))
