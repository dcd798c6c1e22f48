"""Dense and sparse embeddings for Engram."""
