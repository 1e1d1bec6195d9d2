"""`prefect-tikmatrix history`: what became of the jobs of the last days, by phone and by day."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Literal

import httpx
from prefect.exceptions import PrefectException
from prefect.settings import PREFECT_API_URL
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tikmatrix_tasks.errors import InvalidRequest
from tikmatrix_tasks.figures import History, HistoryLine, day_of
from tikmatrix_tasks.history_report import in_numbers, in_words
from tikmatrix_tasks.run_history import read_history, zone_of

NUMBERS = ("completed", "success", "median", "week before")


def run_history(
    *,
    days: int,
    serials: Sequence[str] | None = None,
    script_name: str | None = None,
    flow_name: str | None = None,
    deployment_name: str | None = None,
    time_zone: str | None = None,
    by_day: bool = False,
    form: str | None = None,
) -> int:
    """Print the history of the last days, today included. Returns 0, or 1 with a line on stderr.

    `form` is csv or json for machines, None for people. `by_day` splits phones and scripts by day.
    """
    if not PREFECT_API_URL.value():
        return _refuse("set PREFECT_API_URL first: the records are on a Prefect server")
    try:
        history = read_history(
            day=day_of(datetime.now().astimezone(), zone_of(time_zone)),
            days=days,
            serials=serials,
            script_name=script_name,
            flow_name=flow_name,
            deployment_name=deployment_name,
            time_zone=time_zone,
        )
    except InvalidRequest as err:
        return _refuse(f"--{err.field.replace('_', '-')} {err.problem}")
    except (httpx.HTTPError, PrefectException) as err:
        return _refuse(f"Prefect's API does not answer ({type(err).__name__})")
    if form == "json":
        _write_json(history)
    elif form == "csv":
        _write_csv(history)
    else:
        _print(history, by_day)
    return 0


def _print(history: History, by_day: bool) -> None:
    console = Console()
    if history.empty:
        console.print(
            "Prefect's records tell of no such jobs in these days, nor in the week before. Run a "
            "flow of this project, or look further back with --days, or at more than one phone, "
            "script, flow or deployment."
        )
        return
    if history.each:
        title = "Each day, phone and script" if by_day else "Each phone and script"
        columns = ("day", "phone", "script") if by_day else ("phone", "script")
        console.print(_table(title, columns, history.each if by_day else history.phones))
    console.print(_table("Each day", ("day",), history.days))
    console.print(Text(str(history)), soft_wrap=True)


def _table(title: str, columns: Sequence[str], lines: Iterable[HistoryLine]) -> Table:
    rows = [in_words(line) for line in lines]
    table = Table(title=title, title_justify="left")
    shown = [*columns, *NUMBERS, "commonest remarks"]
    if any(row["not ended"] for row in rows):
        shown.append("not ended")
    for heading in shown:
        justify: Literal["right", "left"] = "right" if heading in NUMBERS else "left"
        table.add_column(heading, justify=justify, overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(row[heading])) for heading in shown))
    return table


def _write_json(history: History) -> None:
    told = {
        "first": history.first.isoformat(),
        "last": history.last.isoformat(),
        "total": in_numbers(history.total),
        "each": [in_numbers(line) for line in history.each],
    }
    sys.stdout.write(json.dumps(told, indent=2) + "\n")


def _write_csv(history: History) -> None:
    """A row for each day, phone and script; the columns also where there is none."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")  # on Windows a pipe would get the code page
    writer = csv.DictWriter(sys.stdout, list(in_numbers(history.total)), lineterminator="\n")
    writer.writeheader()
    for line in history.each:
        row: dict[str, Any] = in_numbers(line)
        writer.writerow(row | {"remarks": json.dumps(row["remarks"], ensure_ascii=False)})


def _refuse(why: str) -> int:
    sys.stderr.write(f"history: {why}\n")
    return 1
