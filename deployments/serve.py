"""All deployments of `prefect.yaml` from this one process, without a work pool and a worker.

    python deployments/serve.py

Their schedules fire as long as it runs; when it ends, Prefect pauses them. Use this way or a
worker, not both: a deployment that was made for a work pool keeps it, and its worker would run it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import yaml
from prefect import get_client, serve
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound
from prefect.flows import Flow, load_flow_from_entrypoint
from prefect.schedules import Schedule

ROOT = Path(__file__).resolve().parents[1]
NOT_WITHOUT_A_WORKER = ("entrypoint", "work_pool")


def served() -> list[RunnerDeployment]:
    """What `prefect.yaml` says, for `prefect.serve`."""
    text = (ROOT / "deployments" / "prefect.yaml").read_text(encoding="utf-8")
    return [_served(entry) for entry in yaml.safe_load(text)["deployments"]]


def _served(entry: dict[str, Any]) -> RunnerDeployment:
    flow: Flow[..., Any] = load_flow_from_entrypoint(entry["entrypoint"])
    options = {name: value for name, value in entry.items() if name not in NOT_WITHOUT_A_WORKER}
    options["schedules"] = [Schedule(**schedule) for schedule in entry.get("schedules", ())]
    if "concurrency_limit" in entry:
        options["concurrency_limit"] = ConcurrencyLimitConfig(**entry["concurrency_limit"])
    deployment: RunnerDeployment = flow.to_deployment(**options)
    return deployment


def _made_for_a_worker(deployments: list[RunnerDeployment]) -> list[str]:
    names = [f"{deployment.flow_name}/{deployment.name}" for deployment in deployments]
    found = []
    with get_client(sync_client=True) as prefect:
        for name in names:
            try:
                if prefect.read_deployment_by_name(name).work_pool_name is not None:
                    found.append(name)
            except ObjectNotFound:
                continue
    return found


if __name__ == "__main__":
    os.chdir(ROOT)  # entry points are relative to it, also in the processes that runs get
    deployments = served()
    if taken := _made_for_a_worker(deployments):
        sys.exit(
            f"These were deployed for a worker: {', '.join(taken)}. To serve them in its place, "
            "delete each first: prefect deployment delete NAME"
        )
    serve(*deployments)
