"""Client for Engram's HTTP door: `Engram` waits for answers, `AsyncEngram` is its asynchronous twin."""

from engram_client.asks import Ask, Policy
from engram_client.asynchronous import AsyncEngram
from engram_client.streams import Event
from engram_client.synchronous import Engram

__all__ = ["Ask", "AsyncEngram", "Engram", "Event", "Policy"]
