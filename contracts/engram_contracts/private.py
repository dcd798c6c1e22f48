"""What a client marks as private is never stored: doors and workers take it out by the same rule."""

from __future__ import annotations

import re

TAG = re.compile(r"<\s*(/?)\s*private\b[^<>]*>", re.IGNORECASE)


def without_private(text: str) -> str:
    """The text without its `<private>...</private>` blocks, tags included.

    Blocks may be nested; one that is not closed reaches to the end.
    """
    if "<" not in text:
        return text
    kept, depth, at = [], 0, 0
    for tag in TAG.finditer(text):
        if depth == 0:
            kept.append(text[at : tag.start()])
        depth = max(depth - 1, 0) if tag.group(1) else depth + 1
        at = tag.end()
    if depth == 0:
        kept.append(text[at:])
    return "".join(kept)
