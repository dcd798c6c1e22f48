"""Engram's dead letters: looked through, replayed, dropped."""
