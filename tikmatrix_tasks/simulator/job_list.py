"""All jobs as one list: those the engine moves, and the old ones of the history."""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

from tikmatrix_tasks.simulator.history import History
from tikmatrix_tasks.simulator.jobs import Filter, Job, JobTable


class JobList:
    def __init__(self, serials: Sequence[str]) -> None:
        self.live = JobTable()
        self.history = History(serials)
        self.next_id = 1

    def take_ids(self, count: int) -> range:
        self.next_id += count
        return range(self.next_id - count, self.next_id)

    def copy_of(self, job_id: int, *, retries_of_old: int) -> Job | None:
        """The job, not to be moved by whoever asked; None if it is not there."""
        job = self.live.get(job_id)
        return self.history.job(job_id, retries_of_old) if job is None else replace(job)

    def count(self, wanted: Filter) -> int:
        return len(self.live.ids(wanted)) + self.history.count(wanted)

    def page(
        self, wanted: Filter, page: int, page_size: int, *, newest_first: bool
    ) -> tuple[list[int], int]:
        """The ids on a page, and how many there are on all pages."""
        total = self.count(wanted)
        first = (page - 1) * page_size
        last = min(first + page_size, total)
        if first >= last:
            return [], total
        if newest_first:
            return self._ids_between(total - last, total - first, wanted)[::-1], total
        return self._ids_between(first, last, wanted), total

    def _ids_between(self, lowest: int, stop: int, wanted: Filter) -> list[int]:
        """The ids from one rank to another, oldest first.

        The first id is found by halving, so a page deep inside a long history costs no walk.
        """
        live = self.live.ids(wanted)
        low, high = 1, self.next_id
        while low < high:
            middle = (low + high) // 2
            up_to_it = bisect_left(live, middle + 1) + self.history.count_below(middle + 1, wanted)
            if up_to_it > lowest:
                high = middle
            else:
                low = middle + 1
        count = stop - lowest
        at = bisect_left(live, low)
        old = islice(self.history.ids_from(low, wanted), count)
        return list(islice(heapq.merge(live[at : at + count], old), count))
