"""All deployments of `prefect.yaml` from this one process, without a work pool and a worker.

    python deployments/serve.py

A deployment that `prefect deploy` made under the same name is replaced: use one way or the other.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml
from prefect import serve
from prefect.client.schemas.objects import ConcurrencyLimitConfig
from prefect.deployments.runner import RunnerDeployment
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


if __name__ == "__main__":
    os.chdir(ROOT)  # entry points are relative to it, also in the processes that runs get
    serve(*served())
