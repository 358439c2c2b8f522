import ast

import pytest

from tests import ROOT
from vitjax.training.output import SILENT, Output

FILES = sorted((ROOT / "vitjax" / "training").glob("*.py"))


def test_a_run_is_silent_unless_told_where_its_lines_go(capsys):
    SILENT.say("a line")
    SILENT.warn("two", "lines")
    assert list(SILENT.bar(range(3), 3, "counting", unit="numbers")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")
    said: list[str] = []
    Output(said.append).say("heard")
    assert said == ["heard"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_training_prints_nothing_itself(path):
    tree = ast.parse(path.read_text())
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert "print" not in names
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not [node for node in imports if node.module == "vitjax.cli.console"]
