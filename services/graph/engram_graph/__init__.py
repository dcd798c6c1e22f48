"""Engram's record and semantic graph."""
