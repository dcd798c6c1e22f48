"""Answers from memories, with or without a language model."""
