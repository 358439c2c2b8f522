"""Vision transformers whose patch tokens do work: rerank image searches by optimal transport."""

__version__ = "0.1.0"
