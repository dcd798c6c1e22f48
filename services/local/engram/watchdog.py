"""Who stands still: a process that is there, holds its work, and shows no sign of life."""

from __future__ import annotations

from dataclasses import dataclass

STILL_SECONDS = 30.0
"""So long a process may show nothing; native code was seen to hold one for seven seconds."""
BLINK_SECONDS = 5.0
"""Who has not looked for so long was held up himself, and begins to count anew."""


@dataclass
class Sign:
    """The last sign of life of one process, and since when there was no other."""

    pid: int
    beat: float
    since: float


class Watchdog:
    """Told of each process's last sign of life now and then, it says which ones have been still for too long.

    It counts its own monotonic seconds, so neither a clock that is set nor a machine that slept looks like a hang. A
    process that has never shown a sign is still starting; that is for others to judge.
    """

    def __init__(self) -> None:
        self._signs: dict[str, Sign] = {}
        self._looked = float("-inf")

    def still(self, beats: dict[str, tuple[int, float]], now: float) -> list[str]:
        """Names of those that stand still. `beats` holds process id and last sign by name; `now` is monotonic."""
        if now - self._looked > BLINK_SECONDS:
            self._signs.clear()
        self._looked = now
        for name, (pid, beat) in beats.items():
            sign = self._signs.get(name)
            if sign is None or (sign.pid, sign.beat) != (pid, beat):
                self._signs[name] = Sign(pid, beat, now)
        return [name for name in beats if now - self._signs[name].since > STILL_SECONDS]
