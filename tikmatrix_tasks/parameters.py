"""The parameters that the flows share, each with what the Prefect UI's form says of it."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from tikmatrix_tasks.job_request import HH_MM

Phones = Annotated[list[str] | None, Field(title="Phones", description="Serials of the phones.")]
Accounts = Annotated[
    list[str] | None, Field(title="Accounts", description="Accounts, instead of phones.")
]
StartTime = Annotated[
    str | None,
    Field(
        title="Start time",
        # For the form and the API; called from Python, `plan_jobs` refuses with our own error.
        json_schema_extra={"pattern": f"^{HH_MM}$"},
        description="When the jobs start, HH:MM on the TikMatrix machine's clock; at once unless "
        "set.",
    ),
]
EveryAccount = Annotated[
    bool, Field(description="Run for every account of each phone, not only its current one.")
]
TimeoutSeconds = Annotated[
    float | None,
    Field(
        gt=0,
        description="How long jobs, and phones in use, are waited for, in seconds; 4 hours unless "
        "set.",
    ),
]
OnTimeout = Annotated[
    Literal["stop", "leave"],
    Field(description="Whether jobs that are still open after that are stopped."),
]
RetryFailed = Annotated[
    int, Field(ge=0, description="How often a job of this run that failed is run again.")
]
Success = Annotated[
    Literal["any", "all"],
    Field(description="Whether the run counts as failed unless any job, or all, completed."),
]
MaxJobs = Annotated[
    int | None, Field(ge=1, description="Refuse to create more jobs at once; 200 unless set.")
]
RepeatFailed = Annotated[
    bool,
    Field(
        description="Try again what failed in an earlier run: its failed job is deleted, so that "
        "nobody can run it as well, and a new one is created."
    ),
]
DryRun = Annotated[bool, Field(description="Check and show the plan, send nothing.")]
MaxLatenessMinutes = Annotated[
    float | None,
    Field(
        gt=0,
        description="Skip a run that starts this many minutes after its scheduled time, because "
        "the PC slept for instance; never unless set.",
    ),
]
ExclusivePhones = Annotated[
    bool,
    Field(
        description="Wait until no other run with this switch uses one of these phones. "
        "`prefect-tikmatrix limits` creates the limits it takes."
    ),
]
WhenBusy = Annotated[
    Literal["queue", "wait", "skip"],
    Field(
        description="What to do about a phone that has open jobs of anybody: queue behind them, "
        "wait for their end, or leave the phone out."
    ),
]
SomePhones = Annotated[
    list[str] | None,
    Field(title="Phones", description="Serials of the phones; every phone unless set."),
]
ScriptName = Annotated[
    str | None,
    Field(
        title="Script",
        description="Only jobs of this script, by TikMatrix's name, such as post or "
        "account_warmup; every script unless set.",
    ),
]
OnlyOwn = Annotated[
    bool,
    Field(
        title="Only own",
        description="Only jobs that flow runs of this project created, as far as Prefect still "
        "knows those runs. Without it also what people started on TikMatrix's screen.",
    ),
]
RecordDays = Annotated[
    float,
    Field(
        gt=0,
        description="How many days back flow runs are asked for what they created; jobs of older "
        "runs count as other people's.",
    ),
]
