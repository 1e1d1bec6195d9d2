"""The accounts on the phones, as `GET /accounts` of a newer TikMatrix lists them.

Source: TikMatrix docs, "Accounts Status API".
"""

from __future__ import annotations

from typing import Any

from tikmatrix_tasks.simulator.options import Options

_PACKAGES = {"tiktok": "com.zhiliaoapp.musically", "instagram": "com.instagram.android"}


def list_accounts(options: Options) -> list[dict[str, Any]]:
    """All rows. Logged in, enabled and online unless `account_details` says otherwise."""
    return [
        _row(number, username, serial, options)
        for number, (username, serial) in enumerate(options.accounts.items(), start=1)
    ]


def _row(number: int, username: str, serial: str, options: Options) -> dict[str, Any]:
    row: dict[str, Any] = {
        "id": number,
        "username": username,
        "email": None,
        "platform": "tiktok",
        "device": serial,
        "device_online": True,
        "device_name": None,
        "logined": 1,
        "status": 0,
        "tags": [],
    }
    row.update(options.account_details.get(username, {}))
    row.setdefault("packagename", _PACKAGES.get(row["platform"]))
    row.setdefault("logined_text", "Logged in" if row["logined"] else "Not logged in")
    row.setdefault("status_text", "Disabled" if row["status"] else "Enabled")
    return row
