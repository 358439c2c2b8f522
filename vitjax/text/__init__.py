"""Texts to ids: tokenizers of two-tower models, prompts for class names, and text queries."""

from vitjax.text.prompts import PHOTO, prompts
from vitjax.text.query import Text
from vitjax.text.tokenizer import Tokenizer, Word, load_tokenizer

__all__ = ["PHOTO", "Text", "Tokenizer", "Word", "load_tokenizer", "prompts"]
