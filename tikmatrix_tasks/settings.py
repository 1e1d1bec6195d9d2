"""Where TikMatrix listens and how patient we are, by the ways Prefect's own settings are read.

Environment (`PREFECT_INTEGRATIONS_TIKMATRIX_BASE_URL`), `.env`, `prefect.toml`
(`[integrations.tikmatrix]`), `pyproject.toml` and Prefect's profiles.
"""

from __future__ import annotations

from prefect.settings.base import PrefectBaseSettings, build_settings_config
from pydantic import Field

from tikmatrix_tasks.client import DEFAULT_BASE_URL, DEFAULT_TIMEOUT_SECONDS


class TikMatrixSettings(PrefectBaseSettings):
    """What holds where neither a block nor an argument says otherwise."""

    model_config = build_settings_config(("integrations", "tikmatrix"))

    base_url: str = Field(default=DEFAULT_BASE_URL, description="Address of TikMatrix's Local API.")
    timeout_seconds: float = Field(
        default=DEFAULT_TIMEOUT_SECONDS, gt=0, description="Time-out of one request, in seconds."
    )
    poll_interval_seconds: float = Field(
        default=2.0, gt=0, description="The shortest time between two looks at jobs, in seconds."
    )
    max_poll_interval_seconds: float = Field(
        default=15.0, gt=0, description="The longest time between two looks at jobs, in seconds."
    )
    failure_grace_seconds: float = Field(
        default=65.0,
        ge=0,
        description="How long a failed job may still be revived by TikMatrix's Auto Retry, which "
        "takes 5 to 60 s; 0 where Auto Retry is off.",
    )
    outage_budget_seconds: float = Field(
        default=900.0, ge=0, description="How long a wait puts up with no answer, in seconds."
    )
    settle_seconds: float = Field(
        default=30.0,
        ge=0,
        description="How long to look for jobs after a lost answer before sending again, in "
        "seconds.",
    )
    max_jobs: int = Field(
        default=200, ge=1, description="The most jobs that one submission may create."
    )
    redact: bool = Field(
        default=True,
        description="Whether captions, comments, paths, keys and header values are taken out of "
        "what TikMatrix says before anybody reads it. False only while you look into a problem on "
        "your own machine.",
    )
