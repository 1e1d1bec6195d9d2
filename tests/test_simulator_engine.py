"""The simulated TikMatrix on a clock moved by hand: what happens when, exact to the event."""

from __future__ import annotations

import json
import random
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from tikmatrix_tasks.simulator import (
    COMPLETED,
    FAILED,
    PENDING,
    RUNNING,
    Engine,
    Filter,
    Job,
    Options,
    Refusal,
)

NINE_O_CLOCK = datetime(2026, 1, 5, 9, 0, 0)


class World:
    """An engine and the clock that moves it."""

    def __init__(self, options: Options | None = None) -> None:
        self.seconds = 0.0
        self.engine = Engine(options, lambda: self.seconds, NINE_O_CLOCK)

    def __getitem__(self, job_id: int) -> Job:
        return self.engine.get(job_id)

    def create(self, *serials: str, script: str = "post", **more: Any) -> list[int]:
        body = {"serials": list(serials), "script_name": script, "script_config": {}}
        return self.engine.create({**body, **more})

    def wait_until(self, job_id: int, status: int) -> None:
        while self.engine.get(job_id).status != status:
            self.next_event()

    def next_event(self) -> None:
        at = self.engine.next_event_at()
        assert at is not None, "nothing will ever happen"
        self.seconds = at
        self.engine.advance()

    def to_the_end(self) -> None:
        while self.engine.next_event_at() is not None:
            self.next_event()

    def statuses(self) -> list[int]:
        return [job.status for job in self.engine.jobs]


def started_at(job: Job) -> float:
    assert job.started_at is not None
    return job.started_at


def ended_at(job: Job) -> float:
    assert job.ended_at is not None
    return job.ended_at


@pytest.mark.parametrize("seed", range(5))
def test_job_is_taken_up_within_10_seconds(seed: int) -> None:
    """TikMatrix promises it, so a client's deadlines may build on it."""
    world = World(Options(phones=20, seed=seed))
    world.create(*world.engine.options.serials)
    world.to_the_end()
    starts = [started_at(job) for job in world.engine.jobs]
    assert max(starts) <= 10
    assert min(starts) < max(starts), "not all at once"


def test_phone_runs_one_job_at_a_time_in_order_of_id() -> None:
    """The rest queue per phone: a job waits for the one before it, however long that takes."""
    world = World(Options(phones=2))
    for _ in range(4):
        world.create("phone-1", "phone-2")
    world.to_the_end()
    for serial in ("phone-1", "phone-2"):
        jobs = [job for job in world.engine.jobs if job.serial == serial]
        for earlier, later in pairwise(jobs):
            assert ended_at(earlier) <= started_at(later)


def test_licence_limits_how_many_phones_run_at_once() -> None:
    """The phones beyond the limit wait although they are idle; none waits forever."""
    world = World(Options(phones=5, device_limit=2))
    world.create(*world.engine.options.serials)
    most = 0
    while world.engine.next_event_at() is not None:
        world.next_event()
        most = max(most, world.engine.stats()["running"])
    assert most == 2
    assert world.statuses() == [COMPLETED] * 5


def test_phones_that_wait_for_the_licence_run_in_order_of_id() -> None:
    """First come, first served: none is passed over for good."""
    world = World(Options(phones=5, device_limit=1, pickup_seconds=(0, 0)))
    world.create(*world.engine.options.serials)
    world.to_the_end()
    starts = [started_at(job) for job in world.engine.jobs]
    assert starts == sorted(starts)


def test_start_time_is_honoured() -> None:
    """A job for 09:30 stays pending until then and is taken up within 10 s."""
    world = World()
    (job_id,) = world.create("phone-1", start_time="09:30")
    world.seconds = 1799.9
    assert world[job_id].status == PENDING
    world.seconds = 1810
    assert world[job_id].status == RUNNING
    assert 1800 <= started_at(world[job_id]) <= 1810


@pytest.mark.parametrize(
    ("past", "due"),
    [("now", NINE_O_CLOCK), ("tomorrow", datetime(2026, 1, 6, 8, 30))],
)
def test_past_start_time_is_an_option(past: Any, due: datetime) -> None:
    """The docs do not say what 08:30 means at 09:00; a client must do right by both."""
    world = World(Options(past_start_time=past))
    (job_id,) = world.create("phone-1", start_time="08:30")
    assert world.engine.datetime_at(world[job_id].due_at) == due


def test_start_time_of_this_very_minute_is_not_past() -> None:
    """HH:MM has no seconds: 09:00 at 09:00:20 means now, not tomorrow."""
    world = World(Options(past_start_time="tomorrow"))
    world.seconds = 20.0
    (job_id,) = world.create("phone-1", start_time="09:00")
    assert world[job_id].due_at == 20.0


def test_due_job_overtakes_a_scheduled_one() -> None:
    """The queue holds what is due; a job for tonight must not block the phone."""
    world = World(Options(phones=1))
    (tonight,) = world.create("phone-1", start_time="21:00")
    (now,) = world.create("phone-1")
    world.wait_until(now, COMPLETED)
    assert world[tonight].status == PENDING


@pytest.mark.parametrize("seed", range(20))
def test_auto_retry_revives_5_to_60_seconds_after_the_failure(seed: int) -> None:
    """Status 3 turns back into 0 without anyone asking."""
    world = World(Options(seed=seed))
    world.engine.fail_next(remark="upload timed out")
    (job_id,) = world.create("phone-1")
    world.wait_until(job_id, FAILED)
    failed = world[job_id]
    assert (failed.remark, failed.retry_count) == ("upload timed out", 0)
    world.wait_until(job_id, PENDING)
    assert 5 <= world.seconds - ended_at(failed) <= 60
    assert (world[job_id].remark, world[job_id].retry_count) == ("", 1)
    world.to_the_end()
    assert world[job_id].status == COMPLETED


def test_auto_retry_gives_up_at_max_retry_count() -> None:
    """Then failed is final."""
    world = World(Options(fail_rate=1.0, max_retry_count=2))
    (job_id,) = world.create("phone-1")
    world.to_the_end()
    job = world[job_id]
    assert (job.status, job.retry_count, job.runs) == (FAILED, 2, 3)


def test_without_auto_retry_failed_stays_failed() -> None:
    """Nothing in the API tells whether it is on, so both worlds exist."""
    world = World(Options(fail_rate=1.0, auto_retry=False))
    (job_id,) = world.create("phone-1")
    world.to_the_end()
    assert (world[job_id].status, world[job_id].retry_count) == (FAILED, 0)


def test_manual_retry_past_the_maximum_is_refused() -> None:
    """TikMatrix refuses it; a client must not take that for a broken request of its own."""
    world = World(Options(fail_rate=1.0, auto_retry=False, max_retry_count=1))
    (job_id,) = world.create("phone-1")
    world.to_the_end()
    world.engine.retry(job_id)
    world.to_the_end()
    with pytest.raises(Refusal, match="maximum of retries") as refused:
        world.engine.retry(job_id)
    assert refused.value.code == 40001


def test_retry_before_auto_retry_runs_the_job_once() -> None:
    """The Auto Retry that was planned must not strike a job that already runs again."""
    world = World()
    world.engine.fail_next()
    (job_id,) = world.create("phone-1")
    world.wait_until(job_id, FAILED)
    world.engine.retry(job_id)
    world.to_the_end()
    job = world[job_id]
    assert (job.status, job.retry_count, job.runs) == (COMPLETED, 1, 2)


def test_retry_all_runs_every_failed_job_with_retries_left() -> None:
    """Other people's jobs included; those without retries stay as they are."""
    world = World(Options(fail_rate=1.0, auto_retry=False, max_retry_count=1))
    (spent,) = world.create("phone-1")
    world.to_the_end()
    world.engine.retry(spent)
    (theirs,) = world.engine.operator_create("post", serials=["phone-2"])
    (ours,) = world.create("phone-1")
    world.to_the_end()
    world.engine.retry_all()
    assert [world[job].status for job in (spent, theirs, ours)] == [FAILED, PENDING, PENDING]


def test_scripted_failure_hits_the_phone_and_script_it_names() -> None:
    """A test says which run fails, so that it need not search for a seed."""
    world = World(Options(auto_retry=False))
    world.engine.fail_next("phone-2", "post", remark="login required", times=2)
    warmup, *posts = [
        *world.create("phone-2", script="account_warmup"),
        *world.create("phone-1"),
        *world.create("phone-2"),
        *world.create("phone-2"),
        *world.create("phone-2"),
    ]
    world.to_the_end()
    assert world[warmup].status == COMPLETED
    assert [world[post].remark for post in posts] == ["", "login required", "login required", ""]


def test_fail_rate_is_the_share_of_failing_runs() -> None:
    """And the remarks differ, as they do on real phones."""
    world = World(Options(phones=1, fail_rate=0.3, auto_retry=False))
    for _ in range(300):
        world.create("phone-1")
    world.to_the_end()
    assert 60 <= world.engine.stats()["failed"] <= 120
    assert len({job.remark for job in world.engine.jobs}) > 3


def test_same_seed_same_outcome() -> None:
    """A failure seen once can be looked at again; another seed is another day."""

    def outcome(seed: int) -> list[Job]:
        world = World(Options(phones=3, seed=seed, fail_rate=0.4, device_limit=2))
        for _ in range(10):
            world.create("phone-1", "phone-2", "phone-3")
        world.to_the_end()
        return world.engine.jobs

    assert outcome(1) == outcome(1)
    assert outcome(1) != outcome(2)


def test_outcome_does_not_depend_on_how_often_one_looks() -> None:
    """Polling must not change the world: time moves by events, not by calls."""

    def outcome(step: float) -> list[Job]:
        world = World(Options(phones=2, fail_rate=0.4))
        for _ in range(5):
            world.create("phone-1", "phone-2")
        while world.seconds < 2000:
            world.seconds += step
            world.engine.stats()
        return world.engine.jobs

    assert outcome(1.0) == outcome(500.0)


@pytest.mark.parametrize(
    ("script", "config", "seconds"),
    [
        ("account_warmup", {}, 600),
        ("account_warmup", {"task_duration": 120}, 120),
        ("account_warmup", {"task_duration": "soon"}, 600),
        ("post", {"upload_wait_time": 300, "sound_wait_time": 100}, 420),
        ("post", {}, 60),
        ("follow", {"target_user": "a"}, 25),
    ],
)
def test_run_lasts_as_its_settings_say(script: str, config: dict[str, Any], seconds: int) -> None:
    """Give or take a tenth, so that phones do not march in step."""
    world = World()
    (job_id,) = world.create("phone-1", script=script, script_config=config)
    world.to_the_end()
    job = world[job_id]
    lasted = ended_at(job) - started_at(job)
    assert lasted == pytest.approx(seconds, rel=0.1)
    assert lasted != seconds


def test_durations_override_is_exact() -> None:
    """For tests that need to know."""
    world = World(Options(durations={"post": 7}))
    (job_id,) = world.create("phone-1")
    world.to_the_end()
    assert ended_at(world[job_id]) - started_at(world[job_id]) == pytest.approx(7)


@pytest.mark.parametrize("after_stop", [COMPLETED, FAILED])
def test_operator_stops_a_running_job(after_stop: Any) -> None:
    """The status afterwards is unknown, so it is an option; the phone goes on with its queue."""
    world = World(Options(phones=1, after_stop=after_stop))
    (first,) = world.create("phone-1")
    (second,) = world.create("phone-1")
    world.wait_until(first, RUNNING)
    world.engine.operator_stop(first)
    assert world[first].status == after_stop
    assert world[second].status == RUNNING
    world.to_the_end()
    assert world[first].status == after_stop, "nobody asked for another run"


def test_auto_retry_of_stopped_jobs_is_an_option() -> None:
    """The worst case for a client that stops jobs: they come back."""
    world = World(Options(after_stop=3, auto_retry_stopped=True))
    (job_id,) = world.create("phone-1")
    world.wait_until(job_id, RUNNING)
    world.engine.stop(job_id)
    world.to_the_end()
    assert (world[job_id].status, world[job_id].retry_count) == (COMPLETED, 1)


def test_stopping_a_pending_job_is_an_option() -> None:
    """Docs: stop is for running jobs. Refused with 40001 by default."""
    world = World()
    (job_id,) = world.create("phone-1")
    with pytest.raises(Refusal, match="not running"):
        world.engine.stop(job_id)
    world.engine.options = replace(world.engine.options, stop_pending="stop")
    world.engine.stop(job_id)
    world.to_the_end()
    assert (world[job_id].status, world[job_id].runs) == (FAILED, 0)


def test_operator_deletes_a_running_job() -> None:
    """It vanishes (40401) and its phone is free."""
    world = World(Options(phones=1))
    (first,) = world.create("phone-1")
    (second,) = world.create("phone-1")
    world.wait_until(first, RUNNING)
    world.engine.operator_delete(first)
    with pytest.raises(Refusal) as refused:
        world.engine.get(first)
    assert refused.value.code == 40401
    assert world[second].status == RUNNING


def test_operator_retries_and_creates() -> None:
    """What is made on the screen has source "ui" and may be any script."""
    world = World(Options(auto_retry=False))
    world.engine.fail_next()
    (job_id,) = world.engine.operator_create("scrape_user", {"depth": 1}, usernames=["user-2a"])
    world.wait_until(job_id, FAILED)
    world.engine.operator_retry(job_id)
    world.to_the_end()
    job = world[job_id]
    assert (job.source, job.serial, job.status) == ("ui", "phone-2", COMPLETED)


def test_job_for_a_phone_that_is_not_there_stays_pending() -> None:
    """If TikMatrix accepts it, nothing ever runs it: a client needs its deadline."""
    world = World(Options(unknown_serial="create"))
    (job_id,) = world.create("unplugged")
    world.to_the_end()
    assert world[job_id].status == PENDING


def test_nothing_happens_when_nothing_is_to_be_done() -> None:
    """A virtual clock can tell that waiting any longer is in vain."""
    world = World()
    assert world.engine.next_event_at() is None
    world.create("phone-1")
    assert world.engine.next_event_at() is not None


@pytest.mark.parametrize("seed", range(4))
def test_whatever_people_do_the_rules_hold_and_every_job_ends(seed: int) -> None:
    """One job per phone, never more phones than licensed, nothing forgotten in a queue."""
    chance = random.Random(seed)
    serials = [f"phone-{number}" for number in range(1, 7)]
    options = Options(phones=6, device_limit=3, seed=seed, fail_rate=0.3, stop_pending="stop")
    world = World(options)
    for _ in range(300):
        world.seconds += chance.expovariate(1 / 5)
        job_id = chance.choice([job.id for job in world.engine.jobs] or [1])
        what = chance.choice(["create", "create", "plan", "stop", "delete", "retry", "retry all"])
        with suppress(Refusal):  # some of it makes no sense, as with people
            if what == "create":
                world.create(*chance.sample(serials, 2))
            elif what == "plan":
                world.create(chance.choice(serials), start_time="09:20")
            elif what == "stop":
                world.engine.stop(job_id)
            elif what == "delete":
                world.engine.delete([job_id])
            elif what == "retry":
                world.engine.retry(job_id)
            else:
                world.engine.retry_all()
        running = [job.serial for job in world.engine.jobs if job.status == RUNNING]
        assert len(running) == len(set(running)) <= 3
        assert world.engine.stats()["running"] == len(running)
        assert world.engine.stats()["total"] == len(world.engine.jobs)
    world.to_the_end()
    assert set(world.statuses()) <= {COMPLETED, FAILED}
    assert COMPLETED in world.statuses()


@pytest.mark.parametrize("newest_first", [True, False])
@pytest.mark.parametrize(
    "wanted",
    [
        Filter(),
        Filter(status=FAILED),
        Filter(serial="phone-2", status=COMPLETED),
        Filter(script_name="post", source="api"),
        Filter(serial="nobody"),
    ],
)
def test_pages_over_history_and_jobs_hold_each_job_once(wanted: Filter, newest_first: bool) -> None:
    """A million old jobs are found by arithmetic; it must agree with looking at each of them."""
    world = World(Options(phones=3, auto_retry=False))
    world.create("phone-1", "phone-2")
    world.engine.add_history(500)
    world.create("phone-2", "phone-3")
    world.engine.add_history(90)
    world.to_the_end()
    world.engine.delete([17, 18, 19, 300, 503, 504])
    everything = [
        world[job_id] for job_id in range(1, 595) if job_id not in (17, 18, 19, 300, 503, 504)
    ]
    expected = [job.id for job in everything if wanted.accepts(job)]
    found: list[int] = []
    for page in range(1, 100):
        jobs, total = world.engine.find(wanted, page, 7, newest_first)
        assert total == len(expected)
        found += [job.id for job in jobs]
    assert found == (expected[::-1] if newest_first else expected)


def test_million_old_jobs_are_cheap() -> None:
    """For trying a client against a TikMatrix that has been used for years."""
    world = World(Options(phones=2))
    world.engine.add_history(1_000_000)
    jobs, total = world.engine.find(Filter(status=FAILED), page=400, page_size=100)
    assert (len(jobs), total, world.engine.stats()["total"]) == (100, 50_000, 1_000_000)
    assert all(world.engine.datetime_at(ended_at(job)) < NINE_O_CLOCK for job in jobs)
    with pytest.raises(Refusal, match="maximum of retries"):
        world.engine.retry(jobs[0].id)


def reopened(world: World, options: Options, not_before: datetime | None = None) -> World:
    """The same jobs in another process, whose clock starts at 0 again."""
    state = json.loads(json.dumps(world.engine.to_state()))
    later = World(options)
    later.engine = Engine.from_state(state, options, lambda: later.seconds, not_before)
    return later


def test_restart_keeps_jobs_and_outcome() -> None:
    """TikMatrix keeps its jobs on disk: closing it changes nothing but the time it takes."""
    options = Options(phones=2, fail_rate=0.5)
    world = World(options)
    world.engine.add_history(50)
    world.create("phone-1", "phone-2")
    world.create("phone-1", "phone-2", start_time="10:00")
    world.wait_until(51, RUNNING)
    later = reopened(world, options)
    assert later.engine.jobs == world.engine.jobs
    assert later.engine.find(Filter()) == world.engine.find(Filter())
    later.to_the_end()
    world.to_the_end()
    assert [job.id for job in later.engine.jobs] == [51, 52, 53, 54]
    assert [ended_at(job) for job in later.engine.jobs] == pytest.approx(
        [ended_at(job) for job in world.engine.jobs], abs=10 * 4
    ), "only the time until a phone takes up a job is drawn anew"


def test_run_goes_on_where_it_was_after_a_pause() -> None:
    """An hour closed is not an hour run; a start time that passed is due at once."""
    options = Options(phones=2)
    world = World(options)
    (running,) = world.create("phone-1", script="account_warmup")
    (planned,) = world.create("phone-2", start_time="09:30")
    world.wait_until(running, RUNNING)
    rest = world[running].ends_at
    assert rest is not None
    rest -= world.seconds
    later = reopened(world, options, NINE_O_CLOCK + timedelta(hours=1))
    later.wait_until(running, COMPLETED)
    assert ended_at(later[running]) == pytest.approx(3600 + rest)
    assert 3600 <= started_at(later[planned]) <= 3610


def test_running_jobs_may_start_over_after_a_restart() -> None:
    """What TikMatrix does with them is unknown."""
    options = Options(running_after_restart="pending")
    world = World(options)
    (job_id,) = world.create("phone-1")
    world.wait_until(job_id, RUNNING)
    later = reopened(world, options)
    assert later[job_id].status == PENDING
    later.to_the_end()
    assert (later[job_id].status, later[job_id].runs) == (COMPLETED, 2)


@pytest.mark.parametrize(
    "damage", [{"format": 2}, {"jobs": [[1, 2]]}, {"jobs": None}, {"second_zero": "yesterday"}]
)
def test_state_that_is_none_is_refused(damage: dict[str, Any]) -> None:
    """Starting without the jobs would look as if somebody had deleted them."""
    with pytest.raises(ValueError, match=r"\w"):
        Engine.from_state({**World().engine.to_state(), **damage})


def test_paused_engine_stands_still() -> None:
    """A closed program runs nothing."""
    world = World()
    (job_id,) = world.create("phone-1")
    world.engine.pause()
    world.seconds = 1000.0
    assert world[job_id].status == PENDING
    assert world.engine.next_event_at() is None
    world.engine.resume()
    world.to_the_end()
    assert world[job_id].status == COMPLETED


@pytest.mark.parametrize(
    ("wrong", "names"),
    [
        ({"phones": 0}, "phones"),
        ({"phones": ("a", "a")}, "phones"),
        ({"plan": "Gold"}, "plan"),
        ({"fail_rate": 1.5}, "fail_rate"),
        ({"speed": 0}, "speed"),
        ({"pickup_seconds": (5, 1)}, "pickup_seconds"),
        ({"device_limit": 0}, "device_limit"),
        ({"durations": {"post": 0}}, "durations"),
        ({"account_details": {"nobody": {}}}, "account_details"),
        ({"accounts_per_phone": 27}, "accounts_per_phone"),
        ({"max_retry_count": -1}, "max_retry_count"),
    ],
)
def test_wrong_option_is_named(wrong: dict[str, Any], names: str) -> None:
    """A simulator that is not what its user asked for proves nothing."""
    with pytest.raises(ValueError, match=f"^{names}:"):
        Options(**wrong)
