import base64
import dataclasses
import hashlib
import html.parser
import json
import math
import os
import pathlib
import re

import numpy as np
import pytest

from tests.viz.example import candidate, each_for_itself, photos, report
from vitjax.viz.report import write_report
from vitjax.viz.views import QueryView, SkippedView

HOSTILE = [
    "<script>alert(1)</script>.jpg",
    '"><img src=x onerror=alert(1)>.png',
    "</script><svg/onload=alert(1)>",
    "<!--<script>",
    "@@script@@ @@data@@",
    "x" * 300 + ".jpg",
    "../../etc/passwd",
    "'; drop \\u003c \\",
    "日本語\u202egnp.exe\u2028\x00",
    "undecodable\udcff.jpg",
]


class Skeleton(html.parser.HTMLParser):
    """Tags with their attributes in order, and the text of each script and style."""

    def __init__(self, page: str):
        super().__init__()
        self.tags: list[tuple[str, tuple]] = []
        self.text: dict[tuple[str, tuple], str] = {}
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, tuple(attrs)))

    def handle_data(self, data):
        if data.strip():
            self.text[self.tags[-1]] = self.text.get(self.tags[-1], "") + data


def read(path: pathlib.Path) -> tuple[Skeleton, dict]:
    skeleton = Skeleton(path.read_text("utf-8"))
    data = next(text for (tag, attrs), text in skeleton.text.items() if ("id", "data") in attrs)
    return skeleton, json.loads(data)


@pytest.fixture
def page(tmp_path):
    path = tmp_path / "report.html"
    write_report(path, report())
    return path


def test_hostile_names_add_no_tag_and_survive_as_text(tmp_path, page):
    plain, _ = read(page)
    queries = [
        QueryView("photo0", name, [candidate(1, 1, 1, name=name, label=name, note=name)], name)
        for name in HOSTILE
    ]
    hostile = report(
        title="".join(HOSTILE[:4]),
        subtitle=HOSTILE[1],
        queries=queries,
        skipped=[SkippedView(name, name) for name in HOSTILE],
        notes=HOSTILE,
        settings=dict.fromkeys(HOSTILE, HOSTILE[0]),
    )
    write_report(tmp_path / "hostile.html", hostile)
    skeleton, data = read(tmp_path / "hostile.html")
    assert skeleton.tags == plain.tags  # the policy, with its hashes, is an attribute: equal as well
    assert [query["name"] for query in data["queries"]] == HOSTILE
    assert [query["candidates"][0]["note"] for query in data["queries"]] == HOSTILE
    assert [name for name, _ in data["skipped"]] == HOSTILE
    assert next(text for (tag, _), text in skeleton.text.items() if tag == "title") == "".join(HOSTILE[:4])


def test_page_asks_for_nothing_from_outside(page):
    text = page.read_text("utf-8")
    assert not re.search(r"(?i)(src|href|action|srcset)\s*=\s*[\"']?\s*(https?:|//|file:)", text)
    assert not re.search(r"(?i)url\(|@import|https?://", text)
    skeleton, _ = read(page)
    addresses = [value for _, attrs in skeleton.tags for key, value in attrs if key in ("src", "href")]
    assert addresses == ["data:,"]


def test_script_never_parses_text_as_html(page):
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|DOMParser", page.read_text()
    )


def test_policy_forbids_everything_but_this_script_and_style(page):
    skeleton, _ = read(page)
    policy = next(
        dict(attrs)["content"]
        for tag, attrs in skeleton.tags
        if ("http-equiv", "Content-Security-Policy") in attrs
    )
    rules = dict(rule.split(None, 1) for rule in policy.split("; "))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for tag, rule in (("script", "script-src"), ("style", "style-src")):
        text = next(text for key, text in skeleton.text.items() if key == (tag, ()))
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert rules[rule] == f"'sha256-{digest}'"


def test_each_photo_is_embedded_once_and_only_as_webp(page):
    _, data = read(page)
    assert set(data["images"]) == set(photos(5))
    for address in data["images"].values():
        head, content = address.split(",", 1)
        assert head == "data:image/webp;base64"
        assert base64.b64decode(content)[8:12] == b"WEBP"
        assert page.read_text().count(content) == 1


def test_listed_contributions_and_the_rest_make_the_structural_score(page):
    _, data = read(page)
    for query in data["queries"]:
        for item in query["candidates"]:
            total = math.fsum(match[10] for match in item["matches"]) + item["remaining"]
            assert total == pytest.approx(item["structural"], abs=1e-6)


def test_contributions_that_do_not_add_up_are_refused(tmp_path):
    off = candidate(1, 1, 1, remaining_contribution=0.1)
    with pytest.raises(ValueError, match=r"contributions add up to .*structural score is"):
        write_report(tmp_path / "r.html", report(queries=[QueryView("photo0", "q", [off])]))


def test_final_score_that_is_not_the_weighted_sum_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"structural \+ 0.5 x pooled"):
        write_report(tmp_path / "r.html", report(weight=0.5))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (photos(2), r"images has no 'photo3'"),
        (photos(5) | {"photo1": np.zeros((8, 8, 3), np.float32)}, r"images\['photo1'\] is float32"),
        (photos(5) | {"photo1": np.zeros((8, 8), np.uint8)}, r"\(8, 8\), not uint8 \(h, w, 3\)"),
        (photos(5) | {"photo1": np.zeros((0, 8, 3), np.uint8)}, r"\(0, 8, 3\), not uint8"),
    ],
)
def test_wrong_images_are_named(tmp_path, images, message):
    with pytest.raises(ValueError, match=message):
        write_report(tmp_path / "r.html", report(images=images))
    assert not list(tmp_path.iterdir())


def test_box_outside_its_image_is_refused(tmp_path):
    good = candidate(1, 1, 1)
    bad = dataclasses.replace(good.matches[0], query_box=(0.9, 0.0, 1.2, 0.1))
    outside = dataclasses.replace(good, matches=[bad, *good.matches[1:]])
    with pytest.raises(ValueError, match=r"box \(0.9, 0.0, 1.2, 0.1\)"):
        write_report(tmp_path / "r.html", report(queries=[QueryView("photo0", "q", [outside])]))


def test_failure_leaves_the_old_page_and_no_rest(tmp_path, page, monkeypatch):
    old = page.read_bytes()

    def full(*_):
        raise OSError("No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"):
        write_report(page, report(title="new"))
    assert page.read_bytes() == old
    assert [file.name for file in tmp_path.iterdir()] == ["report.html"]


def test_numbers_json_cannot_hold_become_null(tmp_path):
    lost = candidate(1, 1, 1, pooled=math.nan, structural=math.nan, score=math.inf)
    write_report(tmp_path / "r.html", report(queries=[QueryView("photo0", "q", [lost])]))
    item = read(tmp_path / "r.html")[1]["queries"][0]["candidates"][0]
    assert (item["pooled"], item["structural"], item["score"]) == (None, None, None)


def test_hundred_queries_stay_below_seven_megabytes(tmp_path):
    images = photos(120, side=320)  # noise: the worst a codec can get
    queries = [
        QueryView(f"photo{i}", f"q{i}", [candidate((3 * i + j) % 120, j + 1, 10 - j) for j in range(10)])
        for i in range(100)
    ]
    patches = dict.fromkeys(images, each_for_itself())
    write_report(tmp_path / "r.html", report(images=images, patches=patches, queries=queries, ranks=10))
    assert (tmp_path / "r.html").stat().st_size < 7_000_000
