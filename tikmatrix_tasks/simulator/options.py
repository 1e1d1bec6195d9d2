"""What a simulated TikMatrix is like: its licence, its phones, and what the docs leave open.

`Options` are habits of the program, `Dialect` is how it words its answers. Where TikMatrix's docs
state nothing, the habit is an option here and its default is the simulator's own choice; every
combination is a server that keeps to the documented facts.
"""

from __future__ import annotations

import string
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Plan = Literal["Starter", "Pro", "Team", "Business"]
RowsKey = Literal["tasks", "list", "items", "rows", "records"]

# The simulator's own numbers: the docs say that the licence limits the phones, not to how many.
DEVICE_LIMITS: dict[Plan, int] = {"Starter": 5, "Pro": 20, "Team": 50, "Business": 100}

# Task Management API: "supported". A later page adds login, profile and match_account.
SUPPORTED_SCRIPTS = ("post", "follow", "unfollow", "account_warmup", "comment")

ACCOUNTS_AT_MOST = len(string.ascii_lowercase)


@dataclass(frozen=True, kw_only=True)
class Options:
    """The program behind the API. Times are simulated seconds unless the name says otherwise."""

    phones: int | tuple[str, ...] = 3
    """How many, then called "phone-1", "phone-2", ...; or their serials."""
    accounts_per_phone: int = 1
    """Phone 1 has the accounts "user-1a", "user-1b", ...; the first is the one that is active."""
    account_details: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Username to fields of its row in `GET /accounts` that differ from the usual."""
    plan: Plan = "Pro"
    device_limit: int | None = None
    """How many phones run at once. None: by plan, see `DEVICE_LIMITS`."""
    speed: float = 1.0
    """Simulated seconds per real second; only `Simulator` has a real clock."""
    seed: int = 0
    """The same seed and the same calls at the same times give the same outcome."""

    scripts: tuple[str, ...] = SUPPORTED_SCRIPTS
    """What the API accepts; any other name gets 40003."""
    durations: Mapping[str, float] = field(default_factory=dict)
    """Script name to the exact seconds of a run, in place of what its settings make likely."""
    pickup_seconds: tuple[float, float] = (0.0, 10.0)
    """An idle phone takes up a job this long after its start time. Docs: within 10 s."""
    fail_rate: float = 0.0
    """The share of runs that fail, 0 to 1."""
    auto_retry: bool = True
    auto_retry_delay_seconds: tuple[float, float] = (5.0, 60.0)
    """How long after a failure Auto Retry runs the job again. Docs: 5 to 60 s, random."""
    auto_retry_stopped: bool = False
    """Unknown: whether Auto Retry also revives a job that was stopped and reports failed."""
    max_retry_count: int = 3
    """Retries a job may have, automatic and manual together. Docs: 1 to 10, usually 3."""

    past_start_time: Literal["now", "tomorrow"] = "now"
    """Unknown: what a `start_time` already past today means."""
    after_stop: Literal[2, 3] = 3
    """Unknown: the status of a job after it was stopped."""
    stop_pending: Literal["refuse", "stop"] = "refuse"
    """Unknown: whether a job that is not running yet can be stopped; refused with 40001."""
    unknown_serial: Literal["refuse", "create"] = "refuse"
    """Unknown: "refuse" with 40001, or "create" a job that stays pending."""
    duplicates: Literal["keep", "merge"] = "keep"
    """Unknown: whether a phone, account or target named twice gets two jobs or one."""
    batch_delete_missing: Literal["ignore", "refuse"] = "ignore"
    """Unknown: ids that are not there; "refuse" is 40401 and deletes nothing."""
    large_page: Literal["cap", "refuse"] = "cap"
    """Unknown: a `page_size` above 100 is taken as 100, or refused with 40001."""
    running_after_restart: Literal["continue", "pending"] = "continue"
    """Unknown: after a restart a running job goes on where it was, or runs from its start."""
    accounts_endpoint: bool = True
    """False: an older TikMatrix, where `GET /accounts` is an unknown path."""

    def __post_init__(self) -> None:
        if not isinstance(self.phones, int):
            object.__setattr__(self, "phones", tuple(self.phones))
        object.__setattr__(self, "scripts", tuple(self.scripts))
        self._check_choices()
        self._check_numbers()
        unknown = set(self.account_details) - set(self.accounts)
        if unknown:
            raise ValueError(f"account_details: no such username: {', '.join(sorted(unknown))}")

    @property
    def serials(self) -> tuple[str, ...]:
        if isinstance(self.phones, int):
            return tuple(f"phone-{number}" for number in range(1, self.phones + 1))
        return self.phones

    @property
    def accounts(self) -> dict[str, str]:
        """Username to serial, the active account of a phone first."""
        letters = string.ascii_lowercase[: self.accounts_per_phone]
        return {
            f"user-{number}{letter}": serial
            for number, serial in enumerate(self.serials, start=1)
            for letter in letters
        }

    @property
    def phones_at_once(self) -> int:
        return DEVICE_LIMITS[self.plan] if self.device_limit is None else self.device_limit

    def _check_choices(self) -> None:
        choices: dict[str, tuple[object, ...]] = {
            "plan": get_args(Plan),
            "past_start_time": ("now", "tomorrow"),
            "after_stop": (2, 3),
            "stop_pending": ("refuse", "stop"),
            "unknown_serial": ("refuse", "create"),
            "duplicates": ("keep", "merge"),
            "batch_delete_missing": ("ignore", "refuse"),
            "large_page": ("cap", "refuse"),
            "running_after_restart": ("continue", "pending"),
        }
        _check_choices(self, choices)

    def _check_numbers(self) -> None:
        if not self.serials:
            raise ValueError("phones: at least one")
        if len(set(self.serials)) < len(self.serials):
            raise ValueError("phones: each serial once")
        if not 1 <= self.accounts_per_phone <= ACCOUNTS_AT_MOST:
            raise ValueError(f"accounts_per_phone: from 1 to {ACCOUNTS_AT_MOST}")
        if self.device_limit is not None and self.device_limit < 1:
            raise ValueError("device_limit: at least 1")
        if not self.speed > 0:
            raise ValueError("speed: more than 0 simulated seconds per real second")
        if not 0 <= self.fail_rate <= 1:
            raise ValueError("fail_rate: from 0 to 1")
        if self.max_retry_count < 0:
            raise ValueError("max_retry_count: at least 0")
        for name in ("pickup_seconds", "auto_retry_delay_seconds"):
            shortest, longest = getattr(self, name)
            if not 0 <= shortest <= longest:
                raise ValueError(f"{name}: two numbers of seconds, the smaller one first")
        for script, seconds in self.durations.items():
            if not seconds > 0:
                raise ValueError(f"durations: {script} must last more than 0 seconds")


@dataclass(frozen=True, kw_only=True)
class Dialect:
    """How the API words what the docs leave open. A client should not notice the difference."""

    rows_key: RowsKey | None = "tasks"
    """The key that holds the rows of a page; None: the answer's `data` is the bare list."""
    string_status: bool = False
    """True: a row says `"status": "1"`."""
    with_total: bool = True
    """False: a page of jobs does not say how many there are."""
    http_status: Literal["always_200", "by_code"] = "always_200"
    """The HTTP status that carries a code: 200 throughout, or 400, 403, 404 and 500."""
    newest_first: bool = True
    row_fields: Literal["seen", "minimal"] = "seen"
    """"seen": what the vendor's own screens use. "minimal": only `id` and `status`."""
    script_args: Literal["text", "object"] = "text"
    """Whether a row's `script_args` is JSON text or an object."""
    target_in_args: Literal["single", "list", "as_sent"] = "single"
    """How `script_args` of one phone-and-target job tells its target: `target_user`,
    `target_users` with one entry, or all targets as they were sent."""
    empty_data: Literal["object", "null"] = "object"
    """What `data` is where there is nothing to say."""

    def __post_init__(self) -> None:
        choices: dict[str, tuple[object, ...]] = {
            "rows_key": (*get_args(RowsKey), None),
            "http_status": ("always_200", "by_code"),
            "row_fields": ("seen", "minimal"),
            "script_args": ("text", "object"),
            "target_in_args": ("single", "list", "as_sent"),
            "empty_data": ("object", "null"),
        }
        _check_choices(self, choices)


def _check_choices(options: object, choices: Mapping[str, tuple[object, ...]]) -> None:
    for name, allowed in choices.items():
        value = getattr(options, name)
        if value not in allowed:
            raise ValueError(f"{name}: {value!r} is none of {', '.join(map(repr, allowed))}")
