"""Reads the body of `POST /task`: which jobs it asks for, or why it is refused.

Source: TikMatrix docs, "Task Management API" and the pages of the five scripts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tikmatrix_tasks.simulator.codes import (
    INVALID,
    SCRIPT_NAME_MISSING,
    SCRIPT_NOT_SUPPORTED,
    Refusal,
)
from tikmatrix_tasks.simulator.options import Options

# Script name to its (list field, string field). One job per phone and target.
TARGET_FIELDS = {
    "follow": ("target_users", "target_user"),
    "unfollow": ("target_users", "target_user"),
    "comment": ("target_post_urls", "target_post_url"),
}

_HH_MM = re.compile(r"([01]\d|2[0-3]):([0-5]\d)")


@dataclass(frozen=True)
class Order:
    """One accepted body: a job for each account and each target (or None)."""

    script_name: str
    script_config: dict[str, Any]
    phones: list[tuple[str, str]]
    """Serial and username."""
    targets: list[str | None]
    start_time: tuple[int, int] | None
    """Hour and minute."""


def read_order(body: Mapping[str, Any], options: Options, *, any_script: bool = False) -> Order:
    """Check a body as the API does; the script's name comes first, as it has codes of its own."""
    script_name = body.get("script_name")
    if not isinstance(script_name, str) or not script_name:
        raise Refusal(SCRIPT_NAME_MISSING, "script_name is required")
    if not any_script and script_name not in options.scripts:
        raise Refusal(SCRIPT_NOT_SUPPORTED, f"script not supported: {script_name}")
    config = body.get("script_config")
    if not isinstance(config, dict):
        raise Refusal(INVALID, "script_config is required and must be an object")
    phones = _phones(body, options)
    _check_intervals(body)
    _check_settings(script_name, config)
    return Order(
        script_name=script_name,
        script_config=config,
        phones=_merged(phones, options),
        targets=_merged(_targets(script_name, config), options),
        start_time=_start_time(body.get("start_time")),
    )


def _phones(body: Mapping[str, Any], options: Options) -> list[tuple[str, str]]:
    serials, usernames = body.get("serials"), body.get("usernames")
    if (serials is None) == (usernames is None):
        raise Refusal(INVALID, "either serials or usernames is required")
    multi_account = body.get("enable_multi_account")
    if multi_account is None:
        multi_account = False
    if not isinstance(multi_account, bool):
        raise Refusal(INVALID, "enable_multi_account must be true or false")
    accounts = options.accounts
    if usernames is not None:
        names = _texts(usernames, "usernames")
        for name in names:
            if name not in accounts:
                raise Refusal(INVALID, f"unknown username: {name}")
        return [(accounts[name], name) for name in names]
    phones: list[tuple[str, str]] = []
    for serial in _texts(serials, "serials"):
        on_it = [name for name, phone in accounts.items() if phone == serial]
        if not on_it and options.unknown_serial == "refuse":
            raise Refusal(INVALID, f"unknown serial: {serial}")
        names = on_it or [""]
        phones += [(serial, name) for name in (names if multi_account else names[:1])]
    return phones


def _targets(script_name: str, config: Mapping[str, Any]) -> list[str | None]:
    if script_name not in TARGET_FIELDS:
        return [None]
    list_field, text_field = TARGET_FIELDS[script_name]
    several, text = config.get(list_field), config.get(text_field)
    if several:
        targets = [target.strip() for target in _texts(several, list_field)]
    elif isinstance(text, str):
        targets = [target.strip() for target in re.split(r"[\n,]", text)]
    else:
        targets = []
    found: list[str | None] = [target for target in targets if target]
    if not found:
        raise Refusal(INVALID, f"{list_field} or {text_field} is required")
    return found


def _check_settings(script_name: str, config: Mapping[str, Any]) -> None:
    if script_name == "comment":
        _require(config, "comment_content")
    if script_name == "post":
        local_folder = config.get("material_source") == "localFolder"
        if local_folder and not config.get("material_list"):
            _require(config, "material_path")
        if config.get("post_way") == "useSound":
            _require(config, "sound_name")
        if config.get("add_sound") == "custom":
            _require(config, "custom_sound_keyword")


def _require(config: Mapping[str, Any], name: str) -> None:
    value = config.get(name)
    if not isinstance(value, str) or not value.strip():
        raise Refusal(INVALID, f"{name} is required")


def _check_intervals(body: Mapping[str, Any]) -> None:
    """`min_interval` and `max_interval` are checked and otherwise without effect here."""
    for name in ("min_interval", "max_interval"):
        value = body.get(name, 0)
        if isinstance(value, bool) or not isinstance(value, int | float | None):
            raise Refusal(INVALID, f"{name} must be a number of minutes")


def _start_time(value: object) -> tuple[int, int] | None:
    if value is None:
        return None
    found = _HH_MM.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise Refusal(INVALID, "start_time must be HH:MM")
    return int(found[1]), int(found[2])


def _texts(value: object, name: str) -> list[str]:
    if not isinstance(value, list) or not value:
        raise Refusal(INVALID, f"{name} must be a list that is not empty")
    if not all(isinstance(entry, str) and entry for entry in value):
        raise Refusal(INVALID, f"{name} must hold texts")
    return list(value)


def _merged(entries: list[Any], options: Options) -> list[Any]:
    return list(dict.fromkeys(entries)) if options.duplicates == "merge" else entries
