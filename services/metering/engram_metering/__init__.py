"""Engram's usage ledger."""
