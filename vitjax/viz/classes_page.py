"""The report page of a classification: a table, and images with the tokens that each stage dropped."""

import base64
import hashlib
import html
import importlib.resources
import io
import os
from collections.abc import Mapping, Sequence

from PIL import Image

from vitjax.system.files import replacing

_EXTRA = """
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.3rem .8rem;text-align:right}
td:first-child,th:first-child{text-align:left}figure{margin:1.5rem 0}figure img{max-width:100%}
main{max-width:1200px;margin:auto;padding:1rem}
"""
_POLICY = "default-src 'none'; img-src data:; style-src 'sha256-{}'; base-uri 'none'; form-action 'none'"


def write_classes_page(
    path: str | os.PathLike[str],
    *,
    title: str,
    notes: Sequence[str],
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    figures: Mapping[str, Image.Image],
) -> None:
    """Writes the page, whole or not at all; it loads nothing.

    Args:
        path: of the file.
        title: of the page.
        notes: lines under it.
        columns: of the table.
        rows: its cells, as text.
        figures: caption -> image.
    """
    style = importlib.resources.files("vitjax.viz").joinpath("report.css").read_text() + _EXTRA
    policy = _POLICY.format(base64.b64encode(hashlib.sha256(style.encode()).digest()).decode())
    text = html.escape
    head = "".join(f"<th>{text(name)}</th>" for name in columns)
    body = "".join("<tr>" + "".join(f"<td>{text(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    drawn = "".join(
        f'<figure><img alt="{text(caption)}" src="{_embedded(image)}">'
        f"<figcaption>{text(caption)}</figcaption></figure>"
        for caption, image in figures.items()
    )
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{text(title)}</title>\n<style>{style}</style>\n</head>\n"
        f"<body>\n<main>\n<h1>{text(title)}</h1>\n"
        + "".join(f"<p>{text(note)}</p>\n" for note in notes)
        + f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>\n{drawn}\n"
        + "</main>\n</body>\n</html>\n"
    )
    with replacing(path, "w") as file:
        file.write(page)


def _embedded(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "WEBP", quality=80)
    return "data:image/webp;base64," + base64.b64encode(file.getvalue()).decode("ascii")
