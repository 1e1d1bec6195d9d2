"""What one submission asks of TikMatrix: a script, and the phones or accounts to run it on."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any

from tikmatrix_tasks.errors import InvalidRequest
from tikmatrix_tasks.scripts import Script, Secrets

HH_MM = r"([01][0-9]|2[0-3]):[0-5][0-9]"  # 24-hour, the TikMatrix machine's clock; no zone is named


STARTS_NOW_MINUTES = 10
"""A start time that is past by no more than this means now."""


def is_past(start_time: str, now: datetime) -> bool:
    """Whether an HH:MM of today is past, by the TikMatrix machine's `now`."""
    hours, minutes = map(int, start_time.split(":"))
    start = now.replace(hour=hours, minute=minutes, second=0, microsecond=0)
    return now - start > timedelta(minutes=STARTS_NOW_MINUTES)


@dataclass(frozen=True)
class JobRequest:
    """One submission: a script for phones (`serials`) or for accounts (`usernames`).

    TikMatrix creates one job per phone or account; for `follow`, `unfollow` and `comment` one per
    phone and target. With `enable_multi_account` the number per phone is not known beforehand.
    `min_interval` and `max_interval` are minutes; some versions of TikMatrix know them.
    Source: TikMatrix docs, "Task Management API", "Create Task".

    Raises:
        InvalidRequest: a field that TikMatrix would refuse, or two that contradict each other.
    """

    script: Script
    serials: tuple[str, ...] = ()
    usernames: tuple[str, ...] = ()
    enable_multi_account: bool = False
    start_time: str | None = None
    min_interval: int | None = None
    max_interval: int | None = None

    def __post_init__(self) -> None:
        if self.serials and self.usernames:
            raise InvalidRequest("serials, usernames", "give phones or accounts, not both")
        if not self.serials and not self.usernames:
            raise InvalidRequest("serials, usernames", "name at least one phone or account")
        for field in ("serials", "usernames"):
            entries = getattr(self, field)
            if any(not isinstance(entry, str) or not entry.strip() for entry in entries):
                raise InvalidRequest(field, "holds an empty entry")
            repeated = sorted({entry for entry in entries if entries.count(entry) > 1})
            if repeated:
                raise InvalidRequest(field, f"names {', '.join(repeated)} more than once")
        if self.enable_multi_account and self.usernames:
            raise InvalidRequest("enable_multi_account", "goes with serials, not with usernames")
        if self.start_time is not None and not re.fullmatch(HH_MM, self.start_time):
            raise InvalidRequest(
                "start_time", f"is {self.start_time!r}; must be HH:MM, 00:00 to 23:59"
            )
        for field in ("min_interval", "max_interval"):
            minutes = getattr(self, field)
            if minutes is not None and minutes < 0:
                raise InvalidRequest(field, f"is {minutes}; must be 0 or more minutes")
        if (
            self.min_interval is not None
            and self.max_interval is not None
            and self.min_interval > self.max_interval
        ):
            raise InvalidRequest("min_interval", "must not be above max_interval")

    @property
    def owners(self) -> tuple[str, ...]:
        """The phones or the accounts, whichever the request names."""
        return self.serials or self.usernames

    @property
    def least_jobs(self) -> int:
        """How many jobs this creates; with `enable_multi_account` the least it creates."""
        return len(self.owners) * max(1, len(self.script.targets))

    def refuse_above(self, max_jobs: int) -> None:
        """Raise `InvalidRequest` if this would create more than `max_jobs` jobs."""
        if self.least_jobs > max_jobs:
            raise InvalidRequest(
                "max_jobs",
                f"{self} would create {self.least_jobs} jobs; at most {max_jobs} are allowed",
            )

    def to_api(self, secrets: Secrets) -> dict[str, Any]:
        """The body of `POST /task`: what was set, nothing else."""
        body: dict[str, Any] = {
            "serials" if self.serials else "usernames": list(self.owners),
            "script_name": self.script.name,
            "script_config": self.script.to_api(secrets),
        }
        if self.enable_multi_account:
            body["enable_multi_account"] = True
        for field in ("start_time", "min_interval", "max_interval"):
            if getattr(self, field) is not None:
                body[field] = getattr(self, field)
        return body

    def fingerprint(self) -> str:
        """A hash that equal requests share. Of a secret it holds the block's name only.

        The order of phones, accounts and targets does not count: it may differ when a flow is run
        again, and the jobs are the same.
        """
        ordered = replace(
            self,
            script=self.script.only_targets(sorted(self.script.targets))
            if self.script.targets
            else self.script,
            serials=tuple(sorted(self.serials)),
            usernames=tuple(sorted(self.usernames)),
        )
        body = ordered.to_api({name: name for name in self.script.secret_names})
        return sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()

    def __str__(self) -> str:
        if len(self.owners) == 1:
            return f"{self.script.name} on {self.owners[0]}"
        kind = "phones" if self.serials else "accounts"
        return f"{self.script.name} on {len(self.owners)} {kind}"
