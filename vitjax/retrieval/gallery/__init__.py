"""Galleries of descriptors on disk or in an object store."""
