"""When the next look at a wait's jobs is worth its request.

Looks are close together around the moments at which something happens: the start of a wait, a
change that was seen, a start time, the expected end of a warm-up. The farther the nearest such
moment is, before or after now, the longer the pause.
"""

from __future__ import annotations

import math
from bisect import bisect_left, insort

_PAUSE_PER_DISTANCE = 0.25
"""A change that comes out of the blue is noticed late by a quarter of the time that it took."""


class Cadence:
    """The pauses of one wait, in seconds of a monotonic clock.

    `longest_seconds` wins where it is below `shortest_seconds`.
    """

    def __init__(self, shortest_seconds: float, longest_seconds: float) -> None:
        self.shortest_seconds = min(shortest_seconds, longest_seconds)
        self.longest_seconds = longest_seconds
        self._moments: list[float] = []  # sorted

    def mark(self, moment: float) -> None:
        """Something happens at this moment, or is expected to."""
        insort(self._moments, moment)

    def pause(self, now: float) -> float:
        """How long after a look at `now` the next one is due."""
        distance = _PAUSE_PER_DISTANCE * self._distance(now)
        return min(max(distance, self.shortest_seconds), self.longest_seconds)

    def _distance(self, now: float) -> float:
        """To the nearest moment; those that can shorten no pause any more are forgotten."""
        too_old = now - self.longest_seconds / _PAUSE_PER_DISTANCE
        del self._moments[: bisect_left(self._moments, too_old)]
        at = bisect_left(self._moments, now)
        return min(
            (abs(now - near) for near in self._moments[max(at - 1, 0) : at + 1]), default=math.inf
        )
