"""Keeps the tables of each run in RESULTS.md, each between two marks, so that a new run replaces its own alone."""

from __future__ import annotations

import re
from pathlib import Path

RESULTS = Path(__file__).with_name("RESULTS.md")


def keep(name: str, tables: str, *, file: Path = RESULTS) -> None:
    """Put the tables of the run `name` in their place, at the end where there is none yet."""
    text = file.read_text(encoding="utf-8") if file.exists() else "# How good recall is\n"
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    block = f"{begin}\n\n{tables}\n\n{end}"
    place = re.compile(re.escape(begin) + ".*?" + re.escape(end), re.DOTALL)
    known = place.search(text) is not None
    file.write_text(place.sub(lambda _: block, text) if known else f"{text.rstrip()}\n\n{block}\n", encoding="utf-8")
