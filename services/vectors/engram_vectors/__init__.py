"""Engram's vector index and recall."""
