"""`prefect-tikmatrix limits`: create the concurrency limits that `exclusive_phones` takes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence

import httpx
from prefect.exceptions import PrefectException
from prefect.settings import PREFECT_API_URL
from pydantic import ValidationError

from tikmatrix_tasks.block import TikMatrix
from tikmatrix_tasks.errors import HttpStatusError, NotFoundError, TikMatrixError
from tikmatrix_tasks.phone_limits import create_limits, limit_name


def run_limits(*, serials: Sequence[str] | None = None, base_url: str | None = None) -> int:
    """Print a line for each phone. Returns 0, or 1 with a line on stderr."""
    if not PREFECT_API_URL.value():
        return _refuse("set PREFECT_API_URL first: limits live on a Prefect server")
    try:
        phones = list(dict.fromkeys(serials or asyncio.run(_phones_of(base_url))))
    except (HttpStatusError, NotFoundError):
        return _refuse("this TikMatrix does not list accounts; name the phones with --phones")
    except ValidationError as err:
        return _refuse(err.errors()[0]["msg"])
    except TikMatrixError as err:
        return _refuse(str(err))
    if not phones:
        return _refuse("TikMatrix lists no account with a phone; name the phones with --phones")
    try:
        changed = create_limits(phones)
    except (httpx.HTTPError, PrefectException) as err:
        return _refuse(f"Prefect's API does not answer ({type(err).__name__})")
    for phone in phones:
        print(f"{'created' if phone in changed else 'there':<8} {limit_name(phone)}")
    return 0


async def _phones_of(base_url: str | None) -> list[str]:
    async with TikMatrix(base_url=base_url).get_client() as client:
        return sorted(
            {account.device async for account in client.iter_accounts() if account.device}
        )


def _refuse(why: str) -> int:
    print(f"limits: {why}", file=sys.stderr)
    return 1
