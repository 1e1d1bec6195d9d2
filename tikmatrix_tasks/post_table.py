"""A table of posts: one row a post, read and checked whole before anything is sent.

Errors name rows and columns and never repeat what a cell holds: it may be a caption or a path.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tikmatrix_tasks.each_job import EachJob
from tikmatrix_tasks.errors import InvalidRequest
from tikmatrix_tasks.job_request import HH_MM, JobRequest
from tikmatrix_tasks.scripts import Post

OWN_COLUMNS = ("id", "phone", "account", "time")
SETTINGS = {"caption": "captions", "files": "material_list"}
"""Columns with a name of their own, and the setting of `Post` that they are."""
COLUMNS = (*OWN_COLUMNS, *SETTINGS, *Post.model_fields)
SOURCES = ("material_list", "material_source", "material_path", "materials_tags")
"""A row that sets none of these would publish whatever the material library holds."""
FILE_SEPARATORS = r"[;\n]"
ROUNDED = r"\d(?:[.,]\d+)?[eE]\+\d+"
"""What a spreadsheet makes of a long number, such as a serial."""

Cells = dict[str, Any]
"""What a row holds, by column; empty cells are left out."""
Problems = dict[int, list[str]]
"""What is wrong with each row, by its number."""


def read_post_table(path: Path | str) -> list[EachJob]:
    """The posts of a table, a CSV or a JSON file, one for each row.

    The first row of a CSV file names its columns: `phone` or `account`, `files` (separated by ";"),
    `caption`, `time` (HH:MM on the TikMatrix machine's clock), `id`, and the other settings of
    `Post` by their names. JSON is a list of objects with the same names. A row's number is that of
    the spreadsheet, where the first row is the names; in JSON the first object is row 1.

    A row is the same post for ever: by its `id`, or where it has none by all that it holds.

    Raises:
        InvalidRequest: the table cannot be read, or rows are wrong; every one is named.
    """
    problems: Problems = defaultdict(list)
    rows = _read(Path(path), problems)
    _find_equal(rows, problems)
    jobs = [job for number, cells in rows if (job := _job(number, cells, problems[number]))]
    wrong = [
        f"row {number}: {'; '.join(found)}" for number, found in sorted(problems.items()) if found
    ]
    if wrong:
        raise InvalidRequest("table", " | ".join(wrong))
    return jobs


# Reading


def _read(path: Path, problems: Problems) -> list[tuple[int, Cells]]:
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".json"):
        raise InvalidRequest("table", "must be a .csv or a .json file")
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise InvalidRequest("table", "is not UTF-8; save it as 'CSV UTF-8'") from None
    except OSError as err:
        reason = err.strerror or type(err).__name__
        raise InvalidRequest(
            "table", f"cannot be read on the machine that runs the flow: {reason}"
        ) from None
    rows = _csv_rows(text, problems) if suffix == ".csv" else _json_rows(text, problems)
    if not rows:
        raise InvalidRequest("table", "holds no rows")
    return rows


def _csv_rows(text: str, problems: Problems) -> list[tuple[int, Cells]]:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text), strict=True)
    try:
        lines = list(reader)
    except csv.Error as err:
        raise InvalidRequest("table", f"is not CSV: {err}") from None
    names = [_name(cell) for cell in lines[0]] if lines else []
    while names and not names[-1]:
        names.pop()
    _check_columns(names)
    rows: list[tuple[int, Cells]] = []
    for number, line in enumerate(lines[1:], 2):
        if any(cell.strip() for cell in line[len(names) :]):
            problems[number].append("has more cells than there are columns")
        filled = {name: cell.strip() for name, cell in zip(names, line, strict=False)}
        cells = {name: cell for name, cell in filled.items() if cell}
        if cells:
            rows.append((number, cells))
    return rows


def _delimiter(text: str) -> str:
    """A spreadsheet separates by ";" or tabs, too, by the country it is set to."""
    first_line = text.partition("\n")[0]
    return max(",;\t", key=first_line.count)


def _check_columns(names: Sequence[str]) -> None:
    """The first row. What it holds is not repeated: without names, it is a row of posts."""
    unknown = [str(place) for place, name in enumerate(names, 1) if name not in COLUMNS]
    if unknown:
        raise InvalidRequest(
            "table",
            f"row 1 names the columns; column {', '.join(unknown)} has none of these names: "
            f"{', '.join(COLUMNS)}",
        )
    settings = [SETTINGS.get(name, name) for name in names]
    twice = sorted({name for name in settings if settings.count(name) > 1})
    if twice:
        raise InvalidRequest("table", f"row 1 names a column twice: {', '.join(twice)}")


def _json_rows(text: str, problems: Problems) -> list[tuple[int, Cells]]:
    try:
        entries = json.loads(text)
    except (ValueError, RecursionError) as err:
        line = f" in line {err.lineno}" if isinstance(err, json.JSONDecodeError) else ""
        raise InvalidRequest("table", f"is not JSON{line}") from None
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise InvalidRequest("table", "must be a list of objects, one for each post")
    rows: list[tuple[int, Cells]] = []
    for number, entry in enumerate(entries, 1):
        settings = [SETTINGS.get(_name(name), _name(name)) for name in entry]
        if len(set(settings)) < len(settings):
            problems[number].append("holds a name twice")
        if any(_name(name) not in COLUMNS for name in entry):
            problems[number].append(f"holds a name that is none of {', '.join(COLUMNS)}")
        filled = {_name(name): _cell(value) for name, value in entry.items()}
        cells = {name: value for name, value in filled.items() if name in COLUMNS and value != ""}
        rows.append((number, cells))
    return rows


def _name(text: str) -> str:
    return text.strip().lower()


def _cell(value: Any) -> Any:
    """As a CSV file would hold it; lists and objects stay what they are."""
    if isinstance(value, list):
        return [_cell(entry) for entry in value] or ""
    if isinstance(value, bool):
        return str(value).lower()
    return value if isinstance(value, dict) else "" if value is None else str(value).strip()


# Checking


def _find_equal(rows: Iterable[tuple[int, Cells]], problems: Problems) -> None:
    """Two rows that would be the same post."""
    by_key: dict[str, list[int]] = defaultdict(list)
    for number, cells in rows:
        by_key[_once_key(cells)].append(number)
    ids = {number for number, cells in rows if "id" in cells}
    for first, *others in by_key.values():
        for number in others:
            problems[number].append(
                f"id: row {first} has the same"
                if number in ids
                else f"is equal to row {first}; give each an id if both are to be posted"
            )


def _job(number: int, cells: Cells, problems: list[str]) -> EachJob | None:
    """The post of a row; what is wrong with it is added to the problems."""
    for name in OWN_COLUMNS:
        if not isinstance(cells.get(name, ""), str):
            problems.append(f"{name}: must be one text")
        elif re.fullmatch(ROUNDED, cells.get(name, "")):
            problems.append(f"{name}: the spreadsheet rounded it; format its column as text")
    if ("phone" in cells) == ("account" in cells):
        problems.append("phone, account: name one of the two")
    if not re.fullmatch(HH_MM, str(cells.get("time", "00:00"))):
        problems.append("time: must be HH:MM, 00:00 to 23:59")
    settings = {
        SETTINGS.get(name, name): value for name, value in cells.items() if name not in OWN_COLUMNS
    }
    if isinstance(settings.get("material_list"), str):
        settings["material_list"] = _split_files(settings["material_list"])
    if not any(settings.get(name) for name in SOURCES):
        problems.append("files: name at least one, or say where else they come from")
    try:
        post = Post.model_validate(settings)
    except ValidationError as err:
        problems += [_problem(error["loc"], error["msg"]) for error in err.errors()]
        return None
    if problems:
        return None
    owner = cells.get("phone") or cells["account"]
    request = JobRequest(
        post,
        serials=(owner,) if "phone" in cells else (),
        usernames=(owner,) if "account" in cells else (),
        start_time=cells.get("time"),
    )
    return EachJob(
        name=f"row {number}, {owner}",
        request=request,
        once_key=_once_key(cells),
        former_key=_content_key(cells) if "id" in cells else None,
        if_changed=(
            "its id was used for another post before, or the row was changed since; give it an id "
            "of its own, or put it back as it was"
        ),
    )


def _split_files(text: str) -> list[str]:
    return [file.strip() for file in re.split(FILE_SEPARATORS, text) if file.strip()]


def _problem(place: Sequence[int | str], message: str) -> str:
    """`caption: must be text`, by the column's name. Pydantic's messages hold no value."""
    column = next((ours for ours, setting in SETTINGS.items() if place[:1] == (setting,)), None)
    name = column or (str(place[0]) if place else "")
    problem = message.removeprefix("Value error, ")
    return f"{name}: {problem}" if name else problem


# What makes a row the same post for ever: not to be changed, or everything is posted once more.


def _once_key(cells: Cells) -> str:
    return f"post table, id {cells['id']}" if "id" in cells else _content_key(cells)


def _content_key(cells: Cells) -> str:
    content = {
        SETTINGS.get(name, name): _split_files(value) if _is_files(name, value) else value
        for name, value in cells.items()
        if name != "id"
    }
    return f"post table, {sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()}"


def _is_files(name: str, value: Any) -> bool:
    return SETTINGS.get(name, name) == "material_list" and isinstance(value, str)
