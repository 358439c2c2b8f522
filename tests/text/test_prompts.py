import pytest

from vitjax.errors import UserError
from vitjax.text import Text, prompts


def test_templates_that_do_not_hold_the_name_once_are_refused():
    for templates in (["a photo"], ["{} and {}"], []):
        with pytest.raises(UserError, match=r"must hold \{\} once"):
            prompts(["cat"], templates)
    with pytest.raises(TypeError, match="lists"):
        prompts("cat")


def test_class_names_are_texts():
    with pytest.raises(UserError, match="one is empty"):
        prompts(["cat", "_"])
    assert prompts(["100% {wool}"], ["a {} coat"]) == [["a 100% {wool} coat"]]


def test_a_text_query_says_something():
    assert Text("a red dress") == Text("a red dress") != Text("a dress")
    for nothing in ("", " \n"):
        with pytest.raises(UserError, match="says nothing"):
            Text(nothing)
