"""Text as each family's tokenizer was given it in training; `TextSpec.clean` names the function.

Sources: openai/CLIP `simple_tokenizer.py`, transformers `tokenization_clip.py`, `tokenization_siglip.py` and
`tokenization_siglip2.py` (5.24), big_vision `pp/ops_text.py`, google-deepmind/tips `text_encoder.py`.
"""

import html
import importlib
import string
import unicodedata
from collections.abc import Callable
from typing import Any

from vitjax.errors import UserError

INSTALL = "run: pip install ftfy sentencepiece tokenizers (in a checkout: pip install -e '.[text]')"


def clip(text: str) -> str:
    r"""Unicode form NFC, white space merged, lower case: what the tokenizer files of Hugging Face do.

    >>> clip(" A  Red\tDress")
    'a red dress'
    """
    return lower(" ".join(unicodedata.normalize("NFC", text).split()))


def openai(text: str) -> str:
    """The original code of CLIP: text mended by ftfy, HTML unescaped twice, white space merged, lower case.

    Raises:
        ValueError: ftfy is not installed.
    """
    mended: Any = required("ftfy").fix_text(text)
    return " ".join(html.unescape(html.unescape(mended)).split()).lower()


def canonical(text: str) -> str:
    """Lower case, without ASCII punctuation, white space merged: SigLIP of Hugging Face.

    >>> canonical("A T-shirt,  blue.")
    'a tshirt blue'
    """
    return " ".join(text.lower().translate(str.maketrans("", "", string.punctuation)).split())


def lower(text: str) -> str:
    """Lower case and nothing else, letter by letter: SigLIP 2, TIPS, and SigLIP of big_vision.

    >>> lower("A T-shirt,  blue.")
    'a t-shirt,  blue.'
    """
    return "".join(map(str.lower, text))  # a whole word would get another sigma at its end


CLEAN: dict[str, Callable[[str], str]] = {
    "clip": clip,
    "openai": openai,
    "canonical": canonical,
    "lower": lower,
}


def required(library: str) -> Any:
    """Imports a library of the extra `text`.

    Raises:
        ValueError: it is not installed; the line says what to run.
    """
    try:
        return importlib.import_module(library)
    except ImportError as error:
        raise UserError(f"this tokenizer needs {library}; {INSTALL}") from error
