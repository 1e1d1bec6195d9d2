"""See whether TikMatrix and its phones need a hand."""

from __future__ import annotations

from typing import Annotated

from prefect import flow
from pydantic import Field

from tikmatrix_tasks import Health, TikMatrix, complete, look_at_health


@flow(name="check-health")
def check_health(
    serials: Annotated[
        list[str] | None,
        Field(
            title="Phones",
            description="Serials of phones that must be there; those that TikMatrix tells of "
            "unless set.",
        ),
    ] = None,
    longest_queue: Annotated[
        int, Field(ge=0, description="How many open jobs a phone may have before it is reported.")
    ] = 20,
    tikmatrix: TikMatrix | None = None,
    noticed: Annotated[
        str | None,
        Field(
            title="Noticed",
            description="What an automation saw, as one more thing that needs a hand.",
        ),
    ] = None,
) -> Health:
    """Look at the licence, the queues, the phones and the accounts, and say what needs a hand.

    The run fails when TikMatrix cannot be reached or its plan has no API access. Anything smaller,
    such as a phone that is offline or an account that is logged out, ends it as "Needs a hand".
    """
    health = look_at_health(
        serials=serials, longest_queue=longest_queue, noticed=noticed, tikmatrix=tikmatrix
    )
    return complete(health, str(health), name="Needs a hand" if health.concerns else None)
