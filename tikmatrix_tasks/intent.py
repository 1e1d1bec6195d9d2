"""What a submission is about to ask for, noted before it is sent, and which jobs came of it.

An intent must outlive the process, so it holds no caption, path or secret: settings are kept as
hashes, salted with the intent's id, which is enough to recognise them in a job's row.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Any
from uuid import uuid4

from pydantic import BaseModel, ConfigDict

from tikmatrix_tasks.job_request import JobRequest
from tikmatrix_tasks.jobs import Job

Pair = tuple[str, str | None]
"""A phone (or an account) and a target; None where the script has no targets."""

_TARGET_KEYS = ("target_users", "target_user", "target_post_urls", "target_post_url")
_SECRET_KEYS = ("api_key",)


class Intent(BaseModel):
    """A submission before it is sent. `newest_job_id` is the highest id that existed then."""

    model_config = ConfigDict(frozen=True)

    id: str
    fingerprint: str
    newest_job_id: int
    noted_at: datetime
    script_name: str
    owners: tuple[str, ...]
    by_account: bool
    targets: tuple[str, ...]
    unknown_number: bool
    """With `enable_multi_account` nobody knows how many jobs there will be."""
    settings: dict[str, str]
    """The hash of each setting's value, set or by default, by the API's name."""
    were_set: tuple[str, ...]

    @classmethod
    def of(cls, request: JobRequest, newest_job_id: int, noted_at: datetime) -> Intent:
        intent_id = uuid4().hex
        names = dict.fromkeys(request.script.secret_names, "")
        settings = request.script.to_api(names, with_defaults=True)
        return cls(
            id=intent_id,
            fingerprint=request.fingerprint(),
            newest_job_id=newest_job_id,
            noted_at=noted_at,
            script_name=request.script.name,
            owners=request.owners,
            by_account=bool(request.usernames),
            targets=request.script.targets,
            unknown_number=request.enable_multi_account,
            settings={
                name: _hash(intent_id, value)
                for name, value in settings.items()
                if name not in _TARGET_KEYS
            },
            were_set=tuple(
                name for name in request.script.to_api(names) if name not in _TARGET_KEYS
            ),
        )

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """Each phone with each target: what one job each was asked for."""
        return _pairs(self.owners, self.targets)


def pairs_of(request: JobRequest) -> tuple[Pair, ...]:
    """What one job each is asked for."""
    return _pairs(request.owners, request.script.targets)


def _pairs(owners: Iterable[str], targets: tuple[str, ...]) -> tuple[Pair, ...]:
    return tuple((owner, target) for owner in owners for target in targets or (None,))


@dataclass
class Found:
    """Which newer jobs an intent accounts for."""

    by_pair: dict[Pair, list[int]] = field(default_factory=lambda: defaultdict(list))
    unclear: list[int] = field(default_factory=list)
    """May be ours or somebody else's: the rows tell too little."""

    @property
    def job_ids(self) -> tuple[int, ...]:
        return tuple(sorted(job_id for ids in self.by_pair.values() for job_id in ids))

    @property
    def too_many(self) -> tuple[Pair, ...]:
        return tuple(pair for pair, ids in self.by_pair.items() if len(ids) > 1)

    def missing(self, intent: Intent) -> tuple[Pair, ...]:
        return tuple(pair for pair in intent.pairs if not self.by_pair.get(pair))


def match(intent: Intent, jobs: Iterable[Job]) -> Found:
    """Sort newer jobs into those that the intent asked for, those it did not, and the unclear."""
    found = Found()
    any_target: dict[str, list[int]] = defaultdict(list)
    for job in sorted(jobs, key=lambda job: job.id):
        verdict = _is_ours(intent, job)
        if verdict is False:
            continue
        owner = job.username if intent.by_account else job.serial
        if verdict is None or owner is None:
            found.unclear.append(job.id)
            continue
        targets = _targets(job)
        if not intent.targets:
            found.by_pair[owner, None].append(job.id)
        elif len(targets) == 1:
            asked = {_name(target): target for target in intent.targets}
            found.by_pair[owner, asked[_name(targets[0])]].append(job.id)
        else:
            any_target[owner].append(job.id)
    for owner, job_ids in any_target.items():
        # A row that shows all targets does not tell its own; together they do if all are there.
        taken = any(found.by_pair.get((owner, target)) for target in intent.targets)
        if len(job_ids) == len(intent.targets) and not taken:
            for job_id, target in zip(job_ids, intent.targets, strict=True):
                found.by_pair[owner, target].append(job_id)
        else:
            found.unclear += job_ids
    return found


def _is_ours(intent: Intent, job: Job) -> bool | None:
    """Whether the intent asked for a job; None where its row does not tell."""
    owner = job.username if intent.by_account else job.serial
    if job.script_name not in (None, intent.script_name) or job.source not in (None, "api"):
        return False
    if owner is not None and owner not in intent.owners:
        return False
    targets = _targets(job)
    if targets and not {*map(_name, targets)} <= {*map(_name, intent.targets)}:
        return False
    # From here on it may be ours. How TikMatrix words settings in a row is not documented, so
    # other settings than ours do not prove that it is not.
    args = job.script_args or {}
    shown = {name: value for name, value in args.items() if name in intent.settings}
    equal = all(_hash(intent.id, value) == intent.settings[name] for name, value in shown.items())
    told_enough = bool(args) and (bool(set(intent.were_set) & set(shown)) or not intent.were_set)
    return True if equal and told_enough and bool(targets) == bool(intent.targets) else None


def _name(target: str) -> str:
    """A user or a link in the one form that its spellings share."""
    return target.strip().lstrip("@").rstrip("/").casefold()


def _targets(job: Job) -> tuple[str, ...]:
    args = job.script_args or {}
    given = next((args[key] for key in _TARGET_KEYS if args.get(key)), ())
    if isinstance(given, str):
        given = [part.strip() for part in re.split(r"[\n,]", given)]
    return tuple(str(target) for target in given if target) if isinstance(given, list) else ()


def _hash(salt: str, value: object) -> str:
    return sha256(f"{salt} {json.dumps(_plain(value), sort_keys=True)}".encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    """One form for what an answer may write in several: 1 and "1", true and 1, a list and lines."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items() if k not in _SECRET_KEYS}
    if isinstance(value, list):
        return "\n".join(str(_plain(entry)) for entry in value)
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return "" if value is None else str(value)
