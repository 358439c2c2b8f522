"""First-stage search by pooled vectors: exact, streaming, FAISS, Qdrant."""
