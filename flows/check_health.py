"""See whether TikMatrix and its phones need a hand."""

from __future__ import annotations

from typing import Annotated

from prefect import flow

from tikmatrix_tasks import Health, complete, look_at_health
from tikmatrix_tasks.parameters import Connection, Either, on_form


@flow(name="check-health", flow_run_name="check health")
def check_health(
    serials: Annotated[
        list[str] | None,
        Either("By serial", unset="Those TikMatrix tells of"),
        on_form("Phones", "Serials of phones that must be there, an item for each."),
    ] = None,
    longest_queue: Annotated[
        int,
        on_form(
            "Longest queue", "How many open jobs a phone may have before it is reported.", ge=0
        ),
    ] = 20,
    tikmatrix: Connection = None,
    noticed: Annotated[
        str | None,
        Either("What was seen", unset="Nothing"),
        on_form("Noticed", "What an automation saw, as one more thing that needs a hand."),
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
