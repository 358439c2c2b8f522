import dataclasses

import pytest

from vitjax.cli import flags
from vitjax.config import old_names
from vitjax.config.old_names import OldNameWarning, current_path, reads_old_names, with_current_names
from vitjax.config.train_config import DistillConfig, TrainConfig, TrainDataConfig

OLD = [
    (TrainDataConfig, "data", "patience", "timeout", 7.0),
    (DistillConfig, "distill", "name", "teacher", "deit_tiny_patch16_224"),
]


def test_every_old_name_is_tried_here():
    table = {cls: set(names) for cls, names in old_names.OLD_NAMES.items()}
    assert table == {cls.__name__: {old for c, _, old, _, _ in OLD if c is cls} for cls, *_ in OLD}


@pytest.mark.parametrize(("cls", "section", "old", "new", "value"), OLD)
def test_a_field_can_be_made_read_and_written_by_its_old_name(cls, section, old, new, value):
    with pytest.warns(OldNameWarning, match=f"{cls.__name__}.{old} is now called {new}"):
        made = cls(**{old: value})
    assert made == cls(**{new: value})
    with pytest.warns(OldNameWarning):
        assert getattr(made, old) == value
    other = cls()
    with pytest.warns(OldNameWarning):
        setattr(other, old, value)
    assert other == made
    assert old not in dataclasses.asdict(made)
    assert current_path(TrainConfig(), f"{section}.{old}") == f"{section}.{new}"


def test_both_names_at_once_are_refused():
    with pytest.raises(TypeError, match="'patience' is the old name of 'timeout'"):
        TrainDataConfig(patience=3.0, timeout=4.0)


def test_a_name_that_is_old_in_one_section_is_none_in_another():
    assert current_path(TrainConfig(), "data.name") == "data.name"
    assert current_path(TrainConfig(), "nowhere.name") == "nowhere.name"
    assert TrainDataConfig(name="imagenet2012").name == "imagenet2012"


def test_what_an_earlier_version_wrote_gets_the_names_of_today():
    written = {
        "seed": 1,
        "data": {"patience": 7.0, "name": "x"},
        "distill": {"name": "t"},
        "gone": {"name": 2},
    }
    assert with_current_names(TrainConfig(), written) == {
        "seed": 1, "data": {"timeout": 7.0, "name": "x"}, "distill": {"teacher": "t"}, "gone": {"name": 2},
    }  # fmt: skip


def test_a_flag_and_a_config_file_with_an_old_name_are_read_with_a_line(tmp_path, capsys):
    file = tmp_path / "config.py"
    file.write_text(
        "from vitjax.config.train_config import DistillConfig, TrainConfig\n"
        "def get_config(arg):\n    return TrainConfig(distill=DistillConfig(name='t'))\n"
    )
    seen = []
    arguments = ["prog", f"--config={file}", "--workdir=w", "--config.data.patience=20"]
    assert flags._run(lambda config, _: seen.append(config), TrainConfig, "", arguments) == 0
    assert (seen[0].distill.teacher, seen[0].data.timeout) == ("t", 20.0)
    first, second = capsys.readouterr().err.splitlines()
    assert "DistillConfig.name is now called teacher" in first
    assert second.startswith("--config.data.patience is now called --config.data.timeout")


def test_a_section_without_old_names_stays_as_it_is():
    @dataclasses.dataclass
    class Section:
        value: int = 3

    init = Section.__init__
    assert reads_old_names(Section).__init__ is init
