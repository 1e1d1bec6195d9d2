"""Old finished jobs, by arithmetic: a million of them take no memory and no time.

What a client meets after a year of use is a list of which it wants the last few rows. An old job's
row follows from its id alone, so it is made when it is asked for, and a page is found by counting,
not by walking. Old jobs can be read and deleted. The failed ones have used up their retries, so
nothing else about them ever changes.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tikmatrix_tasks.simulator.jobs import COMPLETED, FAILED, Filter, Job

_SCRIPTS = ("post", "account_warmup", "follow", "comment", "unfollow")
_ROUND = 20  # of 20 jobs of one phone in a row, the last has failed
_SECONDS_APART = 30.0


@dataclass
class History:
    serials: Sequence[str]
    blocks: list[tuple[int, int, float]] = field(default_factory=list)
    """First id, the id after the last, and the simulated second before which they ended."""
    deleted: list[int] = field(default_factory=list)
    _residues: dict[Filter, list[int]] = field(default_factory=dict, repr=False)

    @property
    def _period(self) -> int:
        return len(self.serials) * _ROUND

    def add(self, ids: range, before: float) -> None:
        self.blocks.append((ids.start, ids.stop, before))

    def to_state(self) -> dict[str, Any]:
        blocks = [list(block) for block in self.blocks]
        return {"serials": list(self.serials), "blocks": blocks, "deleted": list(self.deleted)}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> History:
        return cls(
            serials=[str(serial) for serial in state["serials"]],
            blocks=[(int(first), int(stop), float(end)) for first, stop, end in state["blocks"]],
            deleted=[int(job_id) for job_id in state["deleted"]],
        )

    def job(self, job_id: int, retries_used: int) -> Job | None:
        for first, stop, before in self.blocks:
            if first <= job_id < stop and not self._is_deleted(job_id):
                return self._make(job_id, before - (stop - job_id) * _SECONDS_APART, retries_used)
        return None

    def delete(self, job_id: int) -> None:
        insort(self.deleted, job_id)

    def count(self, wanted: Filter) -> int:
        return self.count_below(self.blocks[-1][1], wanted) if self.blocks else 0

    def count_below(self, job_id: int, wanted: Filter) -> int:
        """How many jobs that the filter accepts have a smaller id."""
        count = 0
        for first, stop, _ in self.blocks:
            if first < job_id:
                count += self._rank(min(stop, job_id), wanted) - self._rank(first, wanted)
        below = self.deleted[: bisect_left(self.deleted, job_id)]
        return count - sum(wanted.accepts(self._make(gone, 0.0, 0)) for gone in below)

    def ids_from(self, job_id: int, wanted: Filter) -> Iterator[int]:
        """The ids the filter accepts, from this one on."""
        residues = self._residues_of(wanted)
        if not residues:
            return
        for first, stop, _ in self.blocks:
            for found in self._walk(first, job_id, residues):
                if found >= stop:
                    break
                if not self._is_deleted(found):
                    yield found

    def _walk(self, first: int, job_id: int, residues: list[int]) -> Iterator[int]:
        start = max(first, job_id)
        base, residue = start - start % self._period, start % self._period
        at = bisect_left(residues, residue)
        while True:
            for offset in residues[at:]:
                yield base + offset
            base, at = base + self._period, 0

    def _rank(self, job_id: int, wanted: Filter) -> int:
        rounds, residue = divmod(job_id, self._period)
        residues = self._residues_of(wanted)
        return rounds * len(residues) + bisect_left(residues, residue)

    def _residues_of(self, wanted: Filter) -> list[int]:
        """The job ids of one period that the filter accepts; the rest repeats it."""
        if wanted not in self._residues:
            self._residues[wanted] = [
                residue
                for residue in range(self._period)
                if wanted.accepts(self._make(residue, 0.0, 0))
            ]
        return self._residues[wanted]

    def _is_deleted(self, job_id: int) -> bool:
        at = bisect_left(self.deleted, job_id)
        return at < len(self.deleted) and self.deleted[at] == job_id

    def _make(self, job_id: int, ended_at: float, retries_used: int) -> Job:
        turn, phone = divmod(job_id, len(self.serials))
        failed = turn % _ROUND == _ROUND - 1
        script_name = _SCRIPTS[turn % len(_SCRIPTS)]
        config: dict[str, Any] = {}
        target = None
        if script_name in ("follow", "unfollow"):
            target = f"somebody-{job_id}"
        elif script_name == "comment":
            target = f"https://www.tiktok.com/@somebody/video/{job_id}"
            config["comment_content"] = "Nice!"
        return Job(
            id=job_id,
            serial=self.serials[phone],
            username=f"user-{phone + 1}a",
            script_name=script_name,
            script_config=config,
            target=target,
            source="api" if turn % 2 else "ui",
            due_at=ended_at - _SECONDS_APART,
            status=FAILED if failed else COMPLETED,
            remark="element not found" if failed else "",
            retry_count=retries_used if failed else 0,
            started_at=ended_at - _SECONDS_APART,
            ended_at=ended_at,
        )
