"""Engram's HTTP door."""
