"""The parameters that the flows share, each with what the Prefect UI's form says of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field, GetJsonSchemaHandler
from pydantic_core import CoreSchema

from tikmatrix_tasks.block import TikMatrix
from tikmatrix_tasks.job_request import HH_MM
from tikmatrix_tasks.scripts import AccountWarmup, Comment, CustomScript, Follow, Post, Unfollow


def on_form(
    title: str, description: str, *, extra: dict[str, Any] | None = None, **limits: Any
) -> Any:
    """How a flow's parameter looks on its form.

    Prefect takes a parameter's name for its title and no description, and keeps of what an
    annotation says only `json_schema_extra`.
    """
    shown = {"title": title, "description": description, **(extra or {})}
    return Field(title=title, description=description, json_schema_extra=shown, **limits)


@dataclass(frozen=True)
class Either:
    """What the two buttons of a value that may be left out say, in place of "float" and "None"."""

    given: str
    unset: str

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        shown = handler(schema)
        options = [
            {**option, "title": self.unset if option.get("type") == "null" else self.given}
            for option in shown["anyOf"]
        ]
        return {**shown, "anyOf": options}


Phones = Annotated[
    list[str] | None,
    Either("By serial", unset="None"),
    on_form(
        "Phones",
        "Serials of the phones, an item for each. Leave it empty when you name accounts.",
        # An empty list, which counts as none, makes the form offer items to type into.
        extra={"default": []},
    ),
]
Accounts = Annotated[
    list[str] | None,
    Either("By name", unset="None"),
    on_form(
        "Accounts",
        "Names of accounts, an item for each, in place of phones. Name one or the other.",
    ),
]
Connection = Annotated[
    TikMatrix | None,
    Either("TikMatrix", unset="The worker's own"),
    on_form(
        "TikMatrix",
        "Which TikMatrix: a saved block of the type TikMatrix, or the one that the worker's "
        "settings name.",
    ),
]
WarmupSettings = Annotated[
    AccountWarmup,
    on_form("Warm-up", "How the account of each phone browses. As it stands, it only watches."),
]
PostSettings = Annotated[Post, on_form("Post", "What each phone publishes, and how.")]
FollowSettings = Annotated[Follow, on_form("Follow", "Whom each phone follows.")]
UnfollowSettings = Annotated[Unfollow, on_form("Unfollow", "Whom each phone unfollows.")]
CommentSettings = Annotated[
    Comment, on_form("Comment", "Which posts each phone comments on, and with what.")
]
ScriptSettings = Annotated[
    CustomScript, on_form("Script", "Which script runs on each phone, and its settings.")
]
StartTime = Annotated[
    str | None,
    Either("At a time", unset="At once"),
    on_form(
        "Start time",
        "When the jobs start, as HH:MM such as 19:30, on the clock of the TikMatrix machine.",
        # For the form and the API; called from Python, `plan_jobs` refuses with our own error.
        extra={"pattern": f"^{HH_MM}$"},
    ),
]
EveryAccount = Annotated[
    bool,
    on_form("Every account", "Run for every account of each phone, not only its current one."),
]
TimeoutSeconds = Annotated[
    float | None,
    Either("Seconds", unset="4 hours"),
    on_form("Longest wait", "How long jobs, and phones in use, are waited for, in seconds.", gt=0),
]
OnTimeout = Annotated[
    Literal["stop", "leave"],
    on_form(
        "After the longest wait",
        "What happens to jobs that are still open then. Stop ends them, leave lets them go on.",
    ),
]
RetryFailed = Annotated[
    int,
    on_form("Run failed jobs again", "How often a job of this run that failed is run again.", ge=0),
]
Success = Annotated[
    Literal["any", "all"],
    on_form(
        "Counts as success",
        "The run fails unless this many of its jobs completed: any for at least one, or all.",
    ),
]
MaxJobs = Annotated[
    int | None,
    Either("Jobs", unset="Usual limit"),
    on_form(
        "Most jobs",
        "Refuse to create more jobs at once. The usual limit is that of the TikMatrix block, or "
        "200.",
        ge=1,
    ),
]
RepeatFailed = Annotated[
    bool,
    on_form(
        "Repeat failed rows",
        "Try again what failed in an earlier run. Its failed job is deleted, so that nobody can "
        "run it as well, and a new one is created.",
    ),
]
DryRun = Annotated[bool, on_form("Dry run", "Only check and show the plan. Nothing is sent.")]
MaxLatenessMinutes = Annotated[
    float | None,
    Either("Minutes", unset="However late"),
    on_form(
        "Latest start",
        "Skip a run that starts more than this many minutes after its scheduled time, because the "
        "PC slept for instance.",
        gt=0,
    ),
]
ExclusivePhones = Annotated[
    bool,
    on_form(
        "Phones to itself",
        "Wait until no other run with this switch uses one of these phones. Before its first use "
        "run the command prefect-tikmatrix limits once.",
    ),
]
WhenBusy = Annotated[
    Literal["queue", "wait", "skip"],
    on_form(
        "When a phone is busy",
        "What to do about a phone that has open jobs of anybody. Queue behind them, wait for their "
        "end, or skip the phone.",
    ),
]
SomePhones = Annotated[
    list[str] | None,
    Either("By serial", unset="Every phone"),
    on_form("Phones", "Serials of the phones, an item for each, or every phone."),
]
ScriptName = Annotated[
    str | None,
    Either("One script", unset="Every script"),
    on_form(
        "Script", "Only jobs of this script, by TikMatrix's name, such as post or account_warmup."
    ),
]
OnlyOwn = Annotated[
    bool,
    on_form(
        "Only own jobs",
        "Only jobs that these flows created, as far as Prefect still knows the runs. Switched off, "
        "also what people started on TikMatrix's screen.",
    ),
]
RecordDays = Annotated[
    float,
    on_form(
        "Days looked back",
        "How many days back flow runs are asked for what they created. Jobs of older runs count as "
        "other people's.",
        gt=0,
    ),
]
AccessMethod = Annotated[
    Literal["direct", "search"],
    on_form("Way to the profile", "Open the profile directly or search for it."),
]
