"""`prefect-tikmatrix automations`: make the automations of a file, or bring them up to date.

What a person did to one in Prefect's UI stays: whether it is on, and the actions that were added.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
import yaml  # type: ignore[import-untyped]  # what Prefect reads its files with
from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.events.actions import ActionTypes, RunDeployment, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger
from prefect.exceptions import ObjectNotFound, PrefectException
from prefect.settings import PREFECT_API_URL
from pydantic import BaseModel, ConfigDict, ValidationError

from tikmatrix_tasks.errors import InvalidRequest

FILE = Path("deployments", "automations.yaml")
POST_AFTER_WARM_UP = "post-after-warm-up"
"""Made by `prefect deploy`, of `prefect.yaml`; a second one would publish twice."""


class _Wanted(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    description: str
    tells: str
    trigger: EventTrigger


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    runs: str
    automations: list[_Wanted]


def run_automations(*, file: Path = FILE, notify: str | None = None) -> int:
    """Print a line for each automation. Returns 0, or 1 with a line on stderr.

    `notify` names a notification block, as `slack-webhook/office`, that is told as well.
    """
    if not PREFECT_API_URL.value():
        return _refuse("set PREFECT_API_URL first: automations live on a Prefect server")
    try:
        wanted = _File.model_validate(yaml.safe_load(file.read_text(encoding="utf-8")))
        with get_client(sync_client=True) as prefect:
            deployment_id = _deployment(prefect, wanted.runs)
            block_id = None if notify is None else _block(prefect, notify)
            for each in wanted.automations:
                _say(*_make(prefect, each, deployment_id, block_id), each.name)
            for other in prefect.read_automations_by_name(POST_AFTER_WARM_UP):
                _say("there", other.enabled, other.name)
    except FileNotFoundError:
        return _refuse(f"there is no {file} here; run it in the project's root, or name it: --file")
    except ValidationError as err:
        where = ".".join(map(str, err.errors()[0]["loc"]))
        return _refuse(f"{file}: {where}: {err.errors()[0]['msg']}")
    except yaml.YAMLError as err:
        return _refuse(f"{file} is not readable as YAML: {err}")
    except InvalidRequest as err:
        return _refuse(str(err))
    except (httpx.HTTPError, PrefectException) as err:
        return _refuse(f"Prefect's API does not answer, or refuses ({type(err).__name__})")
    return 0


def _deployment(prefect: SyncPrefectClient, name: str) -> UUID:
    try:
        return prefect.read_deployment_by_name(name).id
    except ObjectNotFound:
        raise InvalidRequest(
            "runs",
            f"there is no deployment {name}; "
            "prefect deploy --all --prefect-file deployments/prefect.yaml",
        ) from None


def _block(prefect: SyncPrefectClient, name: str) -> UUID:
    kind, _, block = name.partition("/")
    if not block:
        raise InvalidRequest("notify", f"{name} is no TYPE/NAME, such as slack-webhook/office")
    try:
        return prefect.read_block_document_by_name(block, kind).id
    except ObjectNotFound:
        raise InvalidRequest(
            "notify", f"there is no block {name}; see `prefect block ls`"
        ) from None


def _make(
    prefect: SyncPrefectClient, wanted: _Wanted, deployment_id: UUID, block_id: UUID | None
) -> tuple[str, bool]:
    """Returns what was done, and whether the automation is on."""
    found = prefect.read_automations_by_name(wanted.name)
    known = found[0] if found else None
    actions: list[ActionTypes] = [
        RunDeployment(
            source="selected",
            deployment_id=deployment_id,
            parameters={"noticed": wanted.tells},
            job_variables=None,
        )
    ]
    for action in known.actions if known is not None else ():
        if isinstance(action, RunDeployment) and action.deployment_id == deployment_id:
            continue
        if isinstance(action, SendNotification) and action.block_document_id == block_id:
            continue
        actions.append(action)
    if block_id is not None:
        actions.append(
            SendNotification(block_document_id=block_id, subject=wanted.name, body=wanted.tells)
        )
    automation = AutomationCore(
        name=wanted.name,
        description=wanted.description,
        enabled=known is None or known.enabled,
        tags=["tikmatrix"],
        trigger=wanted.trigger,
        actions=actions,
    )
    if known is None:
        prefect.create_automation(automation)
        return "created", automation.enabled
    if _content(known) == _content(automation):  # a new trigger would begin to count anew
        return "there", automation.enabled
    prefect.update_automation(known.id, automation)
    return "updated", automation.enabled


def _content(automation: AutomationCore) -> dict[str, Any]:
    return automation.model_dump(include={"description", "tags", "trigger", "actions"})


def _say(done: str, on: bool, name: str) -> None:
    print(f"{done:<8} {'on' if on else 'off':<4} {name}")


def _refuse(why: str) -> int:
    print(f"automations: {why}", file=sys.stderr)
    return 1
