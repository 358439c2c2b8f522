"""Pages of the documentation: links lead somewhere, and each term of the glossary has one meaning."""

import re

import pytest

import vitjax
from tests import ROOT

PAGES = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_a_term_has_one_row_with_a_meaning_and_a_source():
    page = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in page.splitlines() if line.startswith("| ")]
    rows = [row for row in rows if row[0] != "term"]
    assert len(rows) > 100 and {len(row) for row in rows} == {3}
    terms = [term for row in rows for term in row[0].split(", ")]
    assert sorted(terms) == sorted(set(terms))


def test_the_changelog_has_the_version():
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.findall(r"^## \[(.+?)\]", text, re.MULTILINE)[:2] == ["Unreleased", vitjax.__version__]
    assert set(re.findall(r"^### (.+)$", text, re.MULTILINE)) <= {
        "Added", "Changed", "Deprecated", "Removed", "Fixed", "Security",
    }  # fmt: skip


# What is not a term of the field, and the glossary's word for it.
AVOIDED = {
    r"owes? to (its|their) place": "positional bias",
    r"taken out of (the )?tokens": "subtracted from the tokens",
    r"pictures? made by code|made pictures?": "synthetic images",
    r"\bpictures?\b": "image",
    r"(lines|tables|bars) for (people|a person)": "console output",
    r"what .{0,30}\b(is|are|was|were) worth": "score, weight",
    r"\bworth\b": "score, importance",
    r"\bbatch-mates?\b": "other elements of the batch",
    r"\bright answers?\b|\b(is|are) right\b": "relevant, correct",
    r"\bby lot\b": "random hold-out",
    r"\bgo(es)? on\b": "resumes, continues",
    r"\bmistaken for\b": "hard negatives",
    r"\bstrangers\b": "shift mask; untrusted",
    r"\bon_chip\b": "the backend, pallas",
    r"\bpace\b": "relaxation level; throughput",
    r"\blooks? at errors": "convergence check",
    r"\bbegan with\b": "initial configuration",
    r"\brunning means?\b": "EMA",
    r"\ba image\b": "an image",
}
# Old names that work for one version, and words that have another sense.
ALLOWED = {
    ("vitjax/_moved.py", "pace"), ("vitjax/_moved.py", "pictures"), ("vitjax/_moved.py", "on_chip"),
    ("vitjax/evaluation/result_tables.py", "picture"),  # a title that scripts read
    ("vitjax/evaluation/result_tables.py", "pictures"),
    ("vitjax/layers/windows.py", "strangers"),
    ("vitjax/models/outputs.py", "worth"),
}  # fmt: skip


def test_avoided_words_stay_out():
    files = [*(ROOT / "vitjax").rglob("*.py"), *(ROOT / "vitjax").rglob("*.js"), *ROOT.glob("*.py"), *PAGES]
    files += [*(ROOT / "configs").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    found = []
    for path in files:
        name = path.relative_to(ROOT).as_posix()
        text = path.read_text(encoding="utf-8") if name != "CHANGELOG.md" else ""  # it lists old names
        for pattern, word in AVOIDED.items():
            for match in re.finditer(pattern, text, re.IGNORECASE):
                if (name, match[0].lower()) not in ALLOWED:
                    line = text.count("\n", 0, match.start()) + 1
                    found.append(f"{name}:{line}: {match[0]!r}; the field says: {word}")
    assert not found, "\n".join(found)
