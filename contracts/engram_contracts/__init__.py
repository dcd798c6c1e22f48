"""Everything the parts of Engram say to each other. Imports pydantic and nothing of Engram's other floors."""
