"""Reranks the top of a search by matching patch tokens."""
