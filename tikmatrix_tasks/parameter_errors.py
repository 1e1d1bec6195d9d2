"""What Prefect logs of parameters that do not fit, without the parameters.

Its own line shows every parameter of the run as it was given: captions, paths, header values. Which
one does not fit, and why, stands in the run's state, without the value.
"""

from __future__ import annotations

import logging
import re

from prefect.logging import get_logger

from tikmatrix_tasks.settings import TikMatrixSettings

_BEGINNING = re.compile(r"Parameter validation failed for flow '[^']*'")


def keep_parameters_out_of_logs() -> None:
    """Shorten that line in this process, whichever flow it is about."""
    get_logger("flows").addFilter(_shorten)


def _shorten(record: logging.LogRecord) -> bool:
    found = _BEGINNING.match(record.getMessage())
    if found and TikMatrixSettings().redact:
        record.msg, record.args = f"{found[0]}; the run's state tells which do not fit", ()
    return True
