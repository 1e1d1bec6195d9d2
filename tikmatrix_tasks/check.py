"""`prefect-tikmatrix check`: what a run needs, one line each, with a remedy where it is missing."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import httpx
from prefect import __version__ as prefect_version
from prefect.client.orchestration import get_client
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.settings import PREFECT_API_URL
from pydantic import ValidationError

from tikmatrix_tasks.block import TikMatrix
from tikmatrix_tasks.client import TikMatrixClient
from tikmatrix_tasks.errors import (
    HttpStatusError,
    InvalidRequest,
    NotFoundError,
    PlanError,
    TikMatrixError,
)

PREFECT_REMEDY = "prefect server start, or correct PREFECT_API_URL and PREFECT_API_KEY"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. Without `needed` a run works without it too."""

    fine: bool
    what: str
    remedy: str = ""
    needed: bool = True

    def __str__(self) -> str:
        word = "ok" if self.fine else "missing" if self.needed else "note"
        return f"{word:<8} {self.what}" + (f"\n{'':<8} -> {self.remedy}" if self.remedy else "")


def run_check(*, base_url: str | None = None, block_name: str | None = None) -> int:
    """Print what was found. Returns 0 when nothing that a run needs is missing, else 1."""
    return asyncio.run(_print_findings(base_url, block_name))


async def _print_findings(base_url: str | None, block_name: str | None) -> int:
    fine = True
    async for finding in _findings(base_url, block_name):
        print(finding, flush=True)
        fine = fine and (finding.fine or not finding.needed)
    return 0 if fine else 1


async def _findings(base_url: str | None, block_name: str | None) -> AsyncIterator[Finding]:
    try:
        if block_name is not None:
            block: TikMatrix = await TikMatrix.aload(block_name)
            client = block.get_client()
        else:
            client = TikMatrix(base_url=base_url).get_client()
    except ValidationError as err:
        yield Finding(False, err.errors()[0]["msg"], "correct --base-url, the block or the setting")
    except (InvalidRequest, ValueError) as err:
        yield Finding(False, str(err), "correct --base-url, --block or the setting")
    except (httpx.HTTPError, PrefectException) as err:
        yield Finding(False, f"the block cannot be read ({type(err).__name__})", PREFECT_REMEDY)
    else:
        async with client:
            async for finding in _tikmatrix(client):
                yield finding
    async for finding in _prefect():
        yield finding


async def _tikmatrix(client: TikMatrixClient) -> AsyncIterator[Finding]:
    try:
        license = await client.check_license()
    except PlanError as err:
        yield Finding(True, f"TikMatrix answers at {client.base_url}")
        yield Finding(False, str(err), "the Local API needs a Pro, Team or Business plan")
        return
    except TikMatrixError as err:
        remedy = (
            "start TikMatrix on that machine, or name its address with --base-url or "
            "PREFECT_INTEGRATIONS_TIKMATRIX_BASE_URL; `prefect-tikmatrix simulate` stands in"
        )
        yield Finding(False, str(err), remedy)
        return
    yield Finding(True, f"TikMatrix answers at {client.base_url}")
    phones = f", up to {license.device_limit} phones" if license.device_limit else ""
    enabled = license.api_enabled is not False
    yield Finding(
        enabled,
        f"plan {license.plan_name or 'not named'}{phones}",
        "" if enabled else "it says that its API is not enabled; look at its licence",
    )
    try:
        await client.list_accounts(page_size=1)
        yield Finding(True, "its accounts can be listed")
    except (HttpStatusError, NotFoundError):
        yield Finding(
            False,
            "it does not list accounts",
            "a newer TikMatrix does; only what looks accounts up needs it",
            needed=False,
        )
    except TikMatrixError as err:
        yield Finding(False, str(err), "try again; jobs can run all the same", needed=False)


async def _prefect() -> AsyncIterator[Finding]:
    address = PREFECT_API_URL.value()
    if not address:
        yield Finding(
            False,
            f"Prefect {prefect_version} has no API address; each run would start its own server",
            "prefect server start, then prefect config set "
            "PREFECT_API_URL=http://127.0.0.1:4200/api",
            needed=False,
        )
        return
    async with get_client() as prefect:
        problem = await prefect.api_healthcheck()
        if problem is not None:
            yield Finding(
                False,
                f"Prefect's API does not answer at {address} ({type(problem).__name__})",
                PREFECT_REMEDY,
            )
            return
        yield Finding(True, f"Prefect {prefect_version}, API at {address}")
        try:
            await prefect.read_block_type_by_slug("tikmatrix")
            yield Finding(True, "the TikMatrix block type is registered")
        except httpx.HTTPError as err:
            yield Finding(False, f"Prefect's API refuses ({type(err).__name__})", PREFECT_REMEDY)
        except ObjectNotFound:
            yield Finding(
                False,
                "the TikMatrix block type is not registered, so the UI does not offer it",
                "prefect block register --module tikmatrix_tasks",
                needed=False,
            )
