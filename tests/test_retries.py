"""The table of codes: what is tried again, and that README says the same."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

import tikmatrix_tasks.errors
from tikmatrix_tasks import (
    ApiError,
    BadRequestError,
    HttpStatusError,
    InternalError,
    JobsFailed,
    NoAnswerError,
    NotFoundError,
    NotSentError,
    OverloadedError,
    PlanError,
    Report,
    ScriptNotSupported,
    SubmissionInDoubt,
    TikMatrixError,
)
from tikmatrix_tasks.errors import api_error
from tikmatrix_tasks.retries import TABLE, Call, is_in_doubt, may_retry

ALWAYS = ("read", "remove", "create")
HARMLESS = ("read", "remove")
NEVER = ()


@pytest.mark.parametrize(
    ("error", "retried", "in_doubt"),
    [
        (NotSentError("c", "http://x", "refused"), ALWAYS, False),
        (NoAnswerError("c", "time-out"), HARMLESS, True),
        (api_error("c", 50001, "m"), HARMLESS, True),
        (api_error("c", 54321, "m"), HARMLESS, True),
        (OverloadedError("c", 429, 1), ALWAYS, False),
        (OverloadedError("c", 503, 1), HARMLESS, True),
        (api_error("c", 40001, "m"), NEVER, False),
        (api_error("c", 40002, "m"), NEVER, False),
        (api_error("c", 40003, "m"), NEVER, False),
        (api_error("c", 40301, "m"), NEVER, False),
        (api_error("c", 40401, "m"), NEVER, False),
        (api_error("c", 41234, "m"), NEVER, False),
        (HttpStatusError("c", 404), NEVER, False),
        (SubmissionInDoubt("s", "d"), NEVER, False),
        (ValueError("no error of ours"), NEVER, False),
    ],
    ids=str,
)
def test_which_error_of_which_call_is_tried_again(
    error: Exception, retried: tuple[Call, ...], in_doubt: bool
) -> None:
    """A create that may have been carried out must never be sent again without a look."""
    calls: tuple[Call, ...] = ("read", "remove", "create")
    assert tuple(call for call in calls if may_retry(error, call)) == retried
    assert is_in_doubt(error) is in_doubt


def test_the_readme_shows_the_same_table() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")
    for row in TABLE:
        retried = [call for call in ("read", "remove", "create") if call in row.retried]
        words = {"read": "reads", "remove": "stop, delete", "create": "create, retry"}
        cells = ", ".join(words[call] for call in retried) or "never"
        assert f"| {row.seen} | `{row.error.__name__}` | {cells} | {row.reason} |" in readme


def test_every_error_class_stands_in_the_tree_and_in_the_public_names() -> None:
    classes = [
        value
        for value in vars(tikmatrix_tasks.errors).values()
        if isinstance(value, type) and issubclass(value, TikMatrixError)
    ]
    assert len(classes) > 15
    for cls in classes:
        assert cls.__name__ in (tikmatrix_tasks.errors.__doc__ or "")
        assert cls.__name__ in tikmatrix_tasks.__all__


@pytest.mark.parametrize(
    "error",
    [
        NotSentError("c", "http://x", "refused"),
        NoAnswerError("c", "time-out"),
        OverloadedError("c", 503, 2.0),
        HttpStatusError("c", 404),
        BadRequestError("c", 40001, "m"),
        ScriptNotSupported("c", 40003, "m"),
        PlanError("c", 40301, "m"),
        NotFoundError("c", 40401, "m"),
        InternalError("c", 50001, "m"),
        ApiError("c", 7, "m"),
        SubmissionInDoubt("s", "d", (1, 2)),
        JobsFailed("1 of 2", Report()),
    ],
    ids=lambda error: type(error).__name__,
)
def test_errors_survive_pickling(error: TikMatrixError) -> None:
    """Prefect stores a failed task's exception and gives it back to another process."""
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))
