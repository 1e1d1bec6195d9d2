"""How a run on a phone goes: how long it takes and whether it fails.

Each draw is keyed by seed, purpose and job, not taken from one stream: what happens to a job does
not depend on how many others were drawn before it.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from tikmatrix_tasks.simulator.jobs import Job
from tikmatrix_tasks.simulator.options import Options

REMARKS = (
    "element not found",
    "upload timed out",
    "login required",
    "app did not start",
    "network error on the device",
    "video not found",
)

# The docs give defaults for the waits of a script; the rest is the simulator's own guess.
_POST_SECONDS_BESIDES_WAITS = 20.0
_USUAL_SECONDS = {"follow": 25.0, "unfollow": 20.0, "comment": 40.0}
_ANY_OTHER_SCRIPT_SECONDS = 60.0


@dataclass(frozen=True)
class Run:
    seconds: float
    fails_with: str | None


def draw(options: Options, purpose: str, *key: object) -> random.Random:
    return random.Random("/".join(map(str, (options.seed, purpose, *key))))


def plan_run(job: Job, options: Options, scripted_remark: str | None) -> Run:
    """The next run of this job. A failing run ends somewhere on its way."""
    chance = draw(options, "run", job.id, job.runs)
    seconds = _seconds(job, options, chance.uniform(0.9, 1.1))
    fails = chance.random() < options.fail_rate
    part, remark = chance.uniform(0.2, 0.9), chance.choice(REMARKS)
    if scripted_remark is not None:
        return Run(seconds * part, scripted_remark)
    return Run(seconds * part, remark) if fails else Run(seconds, None)


def _seconds(job: Job, options: Options, variation: float) -> float:
    if job.script_name in options.durations:
        return options.durations[job.script_name]
    if job.script_name == "account_warmup":
        usual = _setting(job, "task_duration", 600.0)
    elif job.script_name == "post":
        usual = _POST_SECONDS_BESIDES_WAITS
        usual += _setting(job, "upload_wait_time", 30.0) + _setting(job, "sound_wait_time", 10.0)
    else:
        usual = _USUAL_SECONDS.get(job.script_name, _ANY_OTHER_SCRIPT_SECONDS)
    return usual * variation


def _setting(job: Job, name: str, default: float) -> float:
    """A number of seconds among the settings; what is no number is taken as not given."""
    try:
        value = float(job.script_config.get(name, default))
    except (TypeError, ValueError):
        return default
    return value if 0 < value < float("inf") else default
