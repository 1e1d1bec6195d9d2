"""Killed processes, restarted servers and cancelled runs, with nothing simulated but the phones.

Prefect's server and its worker, each flow run and the simulator are processes of their own. Runs
that suffer the same are made to suffer it side by side, because most of the time is their start.
"""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from tests.conftest import HOME
from tests.real_flows.warmups import STORAGE, FreezingStorage
from tests.real_worker import (
    ROOT,
    PrefectServer,
    Production,
    Run,
    SimulatorProcess,
    freeze_file,
)
from tikmatrix_tasks.local_server import quiet_environment
from tikmatrix_tasks.simulator import COMPLETED, PENDING, RUNNING

pytestmark = pytest.mark.skipif(
    os.name != "posix", reason="Windows has no SIGKILL and no SIGSTOP to freeze a process with"
)

SETTINGS = {
    "POLL_INTERVAL_SECONDS": "0.2",
    "MAX_POLL_INTERVAL_SECONDS": "0.5",
    "FAILURE_GRACE_SECONDS": "0",
    "SETTLE_SECONDS": "1",
    "TIMEOUT_SECONDS": "40",
    "OUTAGE_BUDGET_SECONDS": "60",
}
FLOWS = "tests/real_flows/warmups.py"
MAIN_FLOW = "flows/warmup_then_post.py:warmup_then_post"
TWO_PHONES = ["phone-1", "phone-2"]
THREE_PHONES = ["phone-1", "phone-2", "phone-3"]
CANCELLED_WITHIN_SECONDS = 15

StartPhones = Callable[..., SimulatorProcess]


@pytest.fixture(scope="module")
def production() -> Iterator[Production]:
    """A server of this module's own, because one of its tests restarts it, and one worker."""
    home = Path(HOME.name) / "real-crashes"
    home.mkdir()
    environment = quiet_environment(os.environ, home)
    server = PrefectServer(environment, home / "server.log")
    environment = environment | {
        "PREFECT_API_URL": server.api,
        "PREFECT_WORKER_QUERY_SECONDS": "1",
        "PYTHONPATH": str(ROOT),
        **{f"PREFECT_INTEGRATIONS_TIKMATRIX_{name}": value for name, value in SETTINGS.items()},
    }
    production = Production(server, environment)
    try:
        server.start()
        with temporary_settings({PREFECT_API_URL: server.api}):
            FreezingStorage(basepath=str(home / "storage")).save(STORAGE.partition("/")[2])
        with production.worker(home / "worker.log"):
            for name in ("submit_then_wait", "run_a_script", "own_flow", "own_async_flow"):
                production.deploy(f"{FLOWS}:{name}")
            production.deploy(MAIN_FLOW)
            yield production
    finally:
        server.close()


@pytest.fixture
def start_phones(tmp_path: Path) -> Iterator[StartPhones]:
    started: list[SimulatorProcess] = []

    def start(*options: str) -> SimulatorProcess:
        simulator = SimulatorProcess(tmp_path, options)
        started.append(simulator)
        simulator.start()
        return simulator

    yield start
    for simulator in started:
        simulator.close()


def warmup_lasts(seconds: float) -> tuple[str, str]:
    return "--duration", f"account_warmup={seconds:g}"


def side_by_side(*actions: Callable[[], None]) -> None:
    with ThreadPoolExecutor() as threads:
        for done in [threads.submit(action) for action in actions]:
            done.result()


def is_in_the_wait(run: Run, tikmatrix: SimulatorProcess) -> bool:
    return "account_warmup running" in run.log()


def is_before_the_post(run: Run, tikmatrix: SimulatorProcess) -> bool:
    return tikmatrix.has_met("GET /api/v1/task")


def is_between_post_and_work_or_answer(run: Run, tikmatrix: SimulatorProcess) -> bool:
    return tikmatrix.has_met("POST /api/v1/task")


def is_between_answer_and_batch(run: Run, tikmatrix: SimulatorProcess) -> bool:
    return freeze_file(tikmatrix).with_suffix(".reached").exists()


@dataclass(frozen=True)
class Crash:
    """A run of a flow that is killed at a point, and what then holds."""

    flow: str
    at: Callable[[Run, SimulatorProcess], bool]
    options: tuple[str, ...]
    existing: int
    """How many jobs there are, all of them running."""
    said: str
    """What a person then reads in the run's log."""


IN_THE_WAIT = (is_in_the_wait, warmup_lasts(20), 2, "Finished in state Cached")
BEFORE_THE_ANSWER = (
    is_between_post_and_work_or_answer,
    (*warmup_lasts(20), "--fault", "POST /task=hang_after(60)"),
    2,
    "adopted jobs",
)
BEFORE_THE_BATCH = (is_between_answer_and_batch, warmup_lasts(20), 2, "adopted jobs")
BEFORE_THE_INTENT = (
    is_before_the_post,
    (*warmup_lasts(2), "--fault", "GET /task=hang_before(60)"),
    0,
    "Submitted account_warmup on 2 phones",
)
BEFORE_THE_WORK = (
    is_between_post_and_work_or_answer,
    (*warmup_lasts(2), "--fault", "POST /task=hang_before(60)"),
    0,
    "sending again",
)
CRASHES = {
    "during-the-wait": [
        Crash("submit_then_wait", *IN_THE_WAIT),
        Crash("run_a_script", *IN_THE_WAIT),
    ],
    "between-post-and-answer": [
        Crash("submit_then_wait", *BEFORE_THE_ANSWER),
        Crash("run_a_script", *BEFORE_THE_ANSWER),
    ],
    "before-the-post-has-any-effect": [
        Crash("submit_then_wait", *BEFORE_THE_INTENT),
        Crash("run_a_script", *BEFORE_THE_WORK),
    ],
    "between-answer-and-batch": [
        Crash("submit_then_wait", *BEFORE_THE_BATCH),
        Crash("run_a_script", *BEFORE_THE_BATCH),
    ],
}


@pytest.mark.parametrize("crashes", CRASHES.values(), ids=CRASHES)
def test_a_killed_and_retried_run_creates_each_job_once(
    crashes: list[Crash], production: Production, start_phones: StartPhones
) -> None:
    """Wherever the power fails, no phone does the same twice, and one reads why.

    A crash leaves jobs running: they belong to the run that goes on. What was last known of them,
    and when, stands in the table.
    """

    def crash_and_retry(crash: Crash) -> None:
        tikmatrix = start_phones(*crash.options)
        freeze = freeze_file(tikmatrix)
        if crash.at is is_between_answer_and_batch:
            freeze.touch()
        run = production.start(f"{FLOWS}:{crash.flow}", tikmatrix, serials=TWO_PHONES)
        run.until(crash.at.__name__, lambda: crash.at(run, tikmatrix))
        if crash.at is is_in_the_wait:
            run.until("the table shows it", lambda: run.table().statuses == ["running"] * 2)
        run.kill_and_see_it_crash()
        assert tikmatrix.statuses() == [RUNNING] * crash.existing
        if crash.at is is_in_the_wait:
            left = run.table()
            assert left.statuses == ["running"] * 2
            last_known, _, as_of = left.description.partition("; as of ")
            assert last_known == "0 of 2 jobs have ended; running: phone-1, phone-2"
            assert re.fullmatch(r"20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC", as_of)
        freeze.unlink(missing_ok=True)
        run.retry()
        run.until_it_is("Completed")
        assert tikmatrix.jobs() == [(serial, "account_warmup") for serial in TWO_PHONES]
        assert tikmatrix.statuses() == [COMPLETED] * 2
        assert run.table().statuses == ["completed"] * 2
        run.until(f"the log says {crash.said!r}", lambda: crash.said in run.log())

    side_by_side(*(partial(crash_and_retry, crash) for crash in crashes))


def nothing_is_open(tikmatrix: SimulatorProcess) -> bool:
    return not {PENDING, RUNNING} & {*tikmatrix.statuses()}


def see_that_nothing_is_left(run: Run, tikmatrix: SimulatorProcess, called_at: float) -> None:
    """Of a run cancelled at `called_at`, all jobs end in time, and it does not start others."""
    left = CANCELLED_WITHIN_SECONDS - (time.monotonic() - called_at)
    run.until("no job is pending or running", lambda: nothing_is_open(tikmatrix), left)
    run.until_it_is("Cancelled")
    assert nothing_is_open(tikmatrix)
    run.until("the table shows it", lambda: {*run.table().statuses} <= {"failed", "gone"})
    assert all(row["phone"] for row in run.table().rows), "also of jobs that are gone"


def test_cancel_stops_what_threads_wait_for(
    production: Production, start_phones: StartPhones
) -> None:
    """Phones must rest soon after a person said so: running jobs are stopped, pending ones never
    start, though the waits for them sit in threads that hear no signal."""

    def cancel(expected: list[int], *options: str) -> None:
        tikmatrix = start_phones(*options)
        run = production.start(
            MAIN_FLOW, tikmatrix, serials=THREE_PHONES, post={"material_list": ["C:/v.mp4"]}
        )
        run.until("the jobs are waited for", lambda: "account_warmup running" in run.log())
        run.until(f"statuses {expected}", lambda: tikmatrix.statuses() == expected)
        called_at = time.monotonic()
        run.cancel_by_command()
        see_that_nothing_is_left(run, tikmatrix, called_at)
        assert {script for _, script in tikmatrix.jobs()} == {"account_warmup"}

    side_by_side(
        lambda: cancel([RUNNING] * 3),
        lambda: cancel([PENDING, PENDING, RUNNING], "--device-limit", "1"),
    )


@pytest.mark.parametrize("how", ["alive", "killed"])
def test_cancel_stops_the_jobs_of_a_flow_of_ones_own(
    how: str, production: Production, start_phones: StartPhones
) -> None:
    """`@stop_jobs_on_cancel` is all that a user adds. Where the run's process cannot do it any
    more, because it was killed at the same moment, the worker's hook does."""

    def cancel(flow: str) -> None:
        tikmatrix = start_phones("--device-limit", "1")
        run = production.start(f"{FLOWS}:{flow}", tikmatrix, serials=TWO_PHONES)
        run.until("the jobs are waited for", lambda: "account_warmup running" in run.log())
        assert tikmatrix.statuses() == [PENDING, RUNNING]
        if how == "killed":
            run.signal(signal.SIGSTOP)  # from here on, only the hook can act
        called_at = time.monotonic()
        run.cancel()
        if how == "killed":
            run.signal(signal.SIGKILL)
        see_that_nothing_is_left(run, tikmatrix, called_at)
        run.until("each is told as stopped", lambda: len(run.told("tikmatrix.job.stopped")) == 2)
        phones = [job["serial"] for job in run.told("tikmatrix.job.stopped")]
        assert sorted(phones) == TWO_PHONES

    side_by_side(lambda: cancel("own_flow"), lambda: cancel("own_async_flow"))


def test_a_wait_outlives_a_restart_of_tikmatrix(
    production: Production, start_phones: StartPhones
) -> None:
    """TikMatrix is closed for its updates; that must neither fail a run nor repeat a job."""
    tikmatrix = start_phones(*warmup_lasts(4))
    run = production.start(f"{FLOWS}:run_a_script", tikmatrix, serials=TWO_PHONES)
    run.until("the run waits", lambda: is_in_the_wait(run, tikmatrix))
    tikmatrix.kill()
    tikmatrix.start()
    run.until_it_is("Completed")
    assert run.table().statuses == ["completed"] * 2
    assert tikmatrix.jobs() == [(serial, "account_warmup") for serial in TWO_PHONES]
    assert tikmatrix.statuses() == [COMPLETED] * 2


def test_a_wait_outlives_a_restart_of_prefect(
    production: Production, start_phones: StartPhones
) -> None:
    """A restart of Prefect's server must not cost the runs under way."""
    tikmatrix = start_phones(*warmup_lasts(20))
    run = production.start(f"{FLOWS}:run_a_script", tikmatrix, serials=TWO_PHONES)
    run.until("the run waits", lambda: is_in_the_wait(run, tikmatrix))
    production.server.kill()
    production.server.start()
    assert tikmatrix.statuses() == [RUNNING] * 2
    run.until_it_is("Completed")
    assert run.table().statuses == ["completed"] * 2
    assert tikmatrix.jobs() == [(serial, "account_warmup") for serial in TWO_PHONES]
