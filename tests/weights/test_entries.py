import itertools

import numpy as np
import pytest

from tests.weights import torch_writer as w
from tests.weights.tiny import state_of, tiny
from vitjax.weights import WeightsError, load_weights, load_with_report
from vitjax.weights.entries import choose

ANCHOR = "patch_embed.proj.weight"
MODEL = tiny(num_classes=0)
SETS = [state_of(MODEL, seed) for seed in (1, 2, 3)]


def _file(prefixes: list[str], *, nested: bool = False) -> dict:
    """A checkpoint with other numbers under every prefix."""
    state: dict = {}
    for prefix, weights in zip(prefixes, SETS, strict=False):
        inner = {
            f"{prefix.partition('.')[2]}{name}" if nested else prefix + name: v for name, v in weights.items()
        }
        (state.setdefault(prefix.partition(".")[0], {}) if nested else state).update(inner)
    return state


def _which(state, entry=None) -> int:
    """Number of the set that was loaded."""
    bias = np.asarray(load_weights(state, MODEL, entry=entry)["params"]["patch_embed"]["proj"]["bias"])
    (found,) = (i for i, weights in enumerate(SETS) if np.array_equal(bias, weights["patch_embed.proj.bias"]))
    return found


@pytest.mark.parametrize(
    ("prefixes", "meant"),
    [
        (["student.backbone.", "teacher.backbone."], 1),
        (["module.student.backbone.", "module.teacher.backbone."], 1),
        (["student.module.", "teacher."], 1),
        (["model.", "model_ema."], 1),
        (["", "ema."], 1),
        (["model.", "ema_model.module."], 1),
        (["state_dict.", "state_dict_ema."], 1),
        (["model.student.", "model.teacher."], 1),
        (["student.", "backbone."], 1),
        (["student._orig_mod.", "optimizer.", "teacher._orig_mod."], 2),
    ],
)
@pytest.mark.parametrize("nested", [False, True])
def test_what_is_meant_is_taken_in_every_order_and_said(prefixes, meant, nested, caplog):
    for order in (list(range(len(prefixes))), list(range(len(prefixes)))[::-1]):
        state = _file(prefixes, nested=nested and all(prefixes))
        keys = list(state)
        state = {key: state[key] for key in (keys if order[0] == 0 else keys[::-1])}
        caplog.clear()
        assert _which(state) == meant
        (line,) = caplog.messages
        assert "taken; there is also" in line and "entry=" in line


@pytest.mark.parametrize(
    "prefixes",
    [
        ["model.", "net."],
        ["teacher.", "ema."],
        ["encoder_q.", "encoder_k."],
        ["", "backbone."],
        ["model_ema.student.", "model_ema.teacher.", "teacher."],
    ],
)
def test_what_no_name_tells_apart_is_refused_with_the_names(prefixes):
    for order in itertools.permutations(prefixes):
        with pytest.raises(WeightsError) as error:
            load_weights(_file(list(order)), MODEL)
        first = str(error.value).splitlines()[0]
        tied = [p for p in prefixes if not p.endswith("student.") or "ema" in p]
        assert "several sets of weights" in first and "entry=" in first
        assert all(repr(prefix.removesuffix(".")) in first for prefix in tied)


@pytest.mark.parametrize(
    ("entry", "meant"),
    [
        ("student.backbone", 0),
        ("student", 0),
        ("student.backbone.", 0),
        ("teacher", 1),
        ("teacher/backbone", 1),
        ("ema", 2),
        ("model", 2),
    ],
)
def test_an_entry_is_taken_by_its_name(entry, meant, caplog):
    assert _which(_file(["student.backbone.", "teacher.backbone.", "model.ema."]), entry) == meant
    assert caplog.messages == []


def test_the_set_without_a_prefix_is_the_empty_entry():
    assert _which(_file(["", "ema."]), "") == 0
    assert _which(_file(["", "ema."]), "ema") == 1


@pytest.mark.parametrize("entry", ["nobody", "tea", "backbone.teacher", "module", "optimizer", ""])
def test_an_unknown_entry_is_refused_with_the_names_there_are(entry):
    with pytest.raises(
        WeightsError, match=r"no weights under entry .*'student\.backbone', 'teacher\.backbone'"
    ):
        load_weights(_file(["student.backbone.", "teacher.backbone."]), MODEL, entry=entry)


def test_an_entry_that_names_two_sets_takes_the_one_that_is_meant():
    state = _file(["a.student.", "a.teacher.", "b."])
    assert _which(state, "a") == 1
    with pytest.raises(WeightsError, match="several sets"):
        load_weights(_file(["a.x.", "a.y.", "b."]), MODEL, entry="a")


def test_the_classifier_is_of_the_set_that_was_taken():
    model = tiny()
    state = {}
    for seed, who in ((1, "student"), (2, "teacher")):
        for name, value in state_of(model, seed).items():
            inside = "" if name.startswith("head.") else "backbone."
            state[f"{who}.{inside}{name}"] = value
    variables, report = load_with_report(state, model)
    np.testing.assert_array_equal(variables["params"]["head"]["bias"], state["teacher.head.bias"])
    assert report.entry == "teacher.backbone" and report.fits
    assert list(report.ignored) == ["student.backbone.*"]


def test_another_sets_classifier_is_never_taken():
    model = tiny()
    state = {f"teacher.backbone.{n}": v for n, v in SETS[0].items()}
    state |= {f"student.backbone.{n}": v for n, v in SETS[1].items()}
    state |= {"student.head.weight": np.zeros((3, 8), "f"), "student.head.bias": np.zeros(3, "f")}
    with pytest.raises(WeightsError, match="2 missing"):
        load_weights(state, model)


def test_weights_of_another_architecture_beside_are_a_set_of_their_own():
    teacher = {
        "layer1.0.conv1.weight": np.zeros((4, 4, 1, 1), "f"),
        "conv1.weight": np.zeros((4, 3, 7, 7), "f"),
    }
    state = _file(["student."]) | {f"teacher.{n}": v for n, v in teacher.items()}
    assert choose(state).prefix == "teacher." and _which(state, "student") == 0


@pytest.mark.parametrize("wrapper", ["module", "_orig_mod", "_fsdp_wrapped_module", "module._orig_mod"])
def test_wrappers_are_dropped_wherever_they_stand(wrapper):
    state = {
        n.replace("blocks.1.", f"blocks.1.{wrapper}.").replace(ANCHOR, f"{wrapper}.{ANCHOR}"): v
        for n, v in SETS[0].items()
    }
    assert _which(state) == 0
    with pytest.raises(WeightsError, match=rf"unexpected: {wrapper}\.blocks\.0\.x"):
        load_weights(state | {f"{wrapper}.blocks.0.x": np.zeros(3)}, MODEL)


def test_names_that_differ_by_a_wrapper_only_are_two_sets():
    with pytest.raises(WeightsError, match=r"several sets of weights.*'', 'module'"):
        load_weights(_file(["", "module."]), MODEL)


def _saved(tmp_path, tree: dict, beside: dict[str, bytes] | None = None):
    storages: dict[str, bytes] = {}

    def body(tree) -> bytes:
        items = {}
        for name, value in tree.items():
            if isinstance(value, dict):
                items[name] = body(value)
                continue
            key = str(len(storages))
            storages[key] = np.ascontiguousarray(value).tobytes()
            strides = tuple(s // value.itemsize for s in np.ascontiguousarray(value).strides)
            items[name] = w.tensor(w.storage(key, value.size), value.shape, strides)
        return w.ordered(items | (beside or {} if tree is outer else {}))

    outer = tree
    path = tmp_path / "w.pth"
    path.write_bytes(w.archive(w.pickled(body(tree)), storages))
    return path


@pytest.mark.parametrize("name", ["state_dict_ema", "model_ema", "ema", "teacher", "weights"])
def test_a_file_with_one_nested_set_is_read_whatever_its_name(tmp_path, name):
    path = _saved(tmp_path, {name: SETS[1]}, {"epoch": w.number(3)})
    assert _which(path) == 1 and _which(path, name) == 1


def test_the_average_beside_a_model_is_taken_from_a_file(tmp_path, caplog):
    path = _saved(tmp_path, {"model": SETS[0], "model_ema": {"module": SETS[1]}})
    assert _which(path) == 1 and "also 'model'" in caplog.text and "w.pth" in caplog.text
    assert _which(path, "model") == 0


def test_only_the_set_that_is_taken_is_read(tmp_path):
    path = _saved(tmp_path, {"student": SETS[0], "teacher": SETS[1]})
    raw = path.read_bytes()
    at = raw.index(SETS[0]["patch_embed.proj.weight"].tobytes())
    path.write_bytes(raw[:at] + b"\xff" + raw[at + 1 :])
    assert _which(path) == 1
    with pytest.raises(WeightsError, match=r"w\.pth"):
        load_weights(path, MODEL, entry="student")


def test_nesting_by_shared_dictionaries_is_bounded(tmp_path):
    # Each of four levels holds the next a hundred times: 10^8 names in 5 kB.
    body = w.ordered({"w": w.tensor(w.storage("0", 1), (1,), (1,))})
    for _ in range(4):
        keys = b"".join(w.text(str(i)) + b"h\x07" for i in range(100))
        body = body + b"q\x070" + w.name("collections", "OrderedDict") + b")R" + w.MARK + keys + b"u"
    (tmp_path / "w.pth").write_bytes(w.archive(w.pickled(body), {"0": bytes(4)}))
    with pytest.raises(WeightsError, match="more than 1000000 entries"):
        load_weights(tmp_path / "w.pth", MODEL)


@pytest.mark.parametrize("anew", [False, True])
@pytest.mark.parametrize("prefix", ["", "teacher.backbone."])
def test_blocks_in_chunks_are_read_in_their_order(prefix, anew):
    model = tiny(depth=4, num_classes=0, init_values=1e-5)
    state = state_of(model, 1)
    chunked = {}
    for name, value in state.items():
        _, number, rest = name.split(".", 2) if name.startswith("blocks.") else ("", "0", "")
        i = int(number)
        chunked[prefix + (f"blocks.{i // 2}.{i % 2 if anew else i}.{rest}" if rest else name)] = value
    ours, report = load_with_report(dict(reversed(chunked.items())), model)
    assert report.fits
    for i in range(4):
        np.testing.assert_array_equal(
            ours["params"][f"blocks_{i}"]["mlp"]["fc1"]["bias"], state[f"blocks.{i}.mlp.fc1.bias"]
        )


def test_the_target_of_a_flax_optimizer_is_weights_and_its_state_is_not():
    anchor = "patch_embed.proj.weight"
    assert choose([f"opt.state.{anchor}", f"opt.target.{anchor}"]).prefix == "opt.target."
