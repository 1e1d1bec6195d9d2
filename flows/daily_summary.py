"""Sum up what became of a day's jobs."""

from __future__ import annotations

from datetime import date
from typing import Annotated

from prefect import flow

from tikmatrix_tasks import History, complete, read_history, show_history, summary_run_name
from tikmatrix_tasks.parameters import Either, ScriptName, SomePhones, on_form


@flow(name="daily-summary", flow_run_name=summary_run_name)
def daily_summary(
    day: Annotated[
        date | None,
        Either("A day", unset="The day before"),
        on_form("Day", "The day to sum up, or the one before the run's scheduled time."),
    ] = None,
    serials: SomePhones = None,
    script_name: ScriptName = None,
    time_zone: Annotated[
        str | None,
        Either("By name", unset="The worker's own"),
        on_form("Time zone", "Where the day begins at midnight, such as Europe/Berlin."),
    ] = None,
) -> History:
    """Sum up a day: for each phone and script its jobs, how many completed, how long they took.

    It is read from the tables that this project's flow runs keep on the Prefect server, and the 7
    days before are read to compare with. The run keeps a table and a plot as artifacts; its state
    says what most people want to know. It changes nothing.
    """
    history = read_history(day=day, serials=serials, script_name=script_name, time_zone=time_zone)
    show_history(history)
    return complete(history, str(history))
