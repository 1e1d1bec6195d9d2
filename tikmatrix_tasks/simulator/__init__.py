"""A stand-in TikMatrix, for people without phones at hand and for tests.

    with Simulator(Options(phones=2, speed=600)) as simulator:
        ...  # point a client at simulator.base_url

It keeps to what TikMatrix's docs state; what they leave open is an option. It uses nothing else of
this package, so that a mistake in the client cannot hide behind the same mistake here.
"""

from tikmatrix_tasks.simulator.api import Answer, Api
from tikmatrix_tasks.simulator.codes import Refusal
from tikmatrix_tasks.simulator.endpoints import ENDPOINTS
from tikmatrix_tasks.simulator.engine import Engine
from tikmatrix_tasks.simulator.faults import Fault, Faults, parse_fault
from tikmatrix_tasks.simulator.jobs import COMPLETED, FAILED, PENDING, RUNNING, Filter, Job
from tikmatrix_tasks.simulator.options import Dialect, Options
from tikmatrix_tasks.simulator.request_log import Request, RequestLog
from tikmatrix_tasks.simulator.server import Simulator
from tikmatrix_tasks.simulator.state_file import StateFileError

__all__ = [
    "COMPLETED",
    "ENDPOINTS",
    "FAILED",
    "PENDING",
    "RUNNING",
    "Answer",
    "Api",
    "Dialect",
    "Engine",
    "Fault",
    "Faults",
    "Filter",
    "Job",
    "Options",
    "Refusal",
    "Request",
    "RequestLog",
    "Simulator",
    "StateFileError",
    "parse_fault",
]
