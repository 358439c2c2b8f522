"""Searches, reranks, classifies and reports: the parts that eval.py puts together."""
