import ast
import re

import pytest

from tests import ROOT
from vitjax.training.output import SILENT, Output, flag

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
def test_training_prints_nothing_itself_and_names_no_field_as_one_program_does(path):
    tree = ast.parse(path.read_text())
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    named = [text for text in texts if isinstance(text, str) and re.search(r"\bconfig\.[a-z_]+\b", text)]
    assert [text for text in named if flag("optim.lr") not in text] == []  # but the example of `flag`
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert "print" not in names
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert not [node for node in imports if node.module == "vitjax.cli.console"]
