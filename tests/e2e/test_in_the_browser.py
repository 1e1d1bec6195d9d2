"""An evening as an operator has it: fill in the form, watch the run, read what became of it.

The tests follow one run, in their order, and take the pictures of `docs/images`.
"""

from __future__ import annotations

import base64

import pytest
from playwright.sync_api import Locator, expect

from tests.e2e.prefect_ui import PrefectUi
from tests.real_worker import until
from tests.test_deployment import Api
from tikmatrix_tasks.simulator import Simulator

PHONES = [f"phone-{number}" for number in range(1, 7)]
CAPTION, FILE = "Fresh bread every morning", "C:/videos/bread.mp4"
SENTENCE = "5 of 6 phones posted; phone-4: warm-up failed (element not found)"
STATUSES = {0: "pending", 1: "running", 2: "completed", 3: "failed"}


@pytest.fixture(scope="module")
def api(deployed: str) -> Api:
    return Api(deployed)


@pytest.fixture(scope="module")
def run(ui: PrefectUi) -> str:
    """The id of a run that was started with the form."""
    ui.open_form("warmup-then-post")
    ui.fill_list("Phones", PHONES)
    ui.field("Duration").get_by_role("spinbutton").fill("30")
    ui.field("Caption").get_by_role("textbox").fill(CAPTION)
    ui.fill_list("Files", [FILE])
    for title, picture in (("Run Name", "form-phones"), ("Post", "form-post")):
        ui.label(title).evaluate("it => it.scrollIntoView()")
        ui.photograph(picture)
    return ui.submit()


@pytest.fixture(scope="module")
def ended(run: str, api: Api) -> str:
    api.until_state(run, "Completed")
    return run


def test_the_form_starts_a_run_with_what_was_filled_in(run: str, ui: PrefectUi, api: Api) -> None:
    assert "/v2/" in ui.page.url, "the UI that a new browser gets"
    parameters = api.run(run)["parameters"]
    assert parameters["serials"] == PHONES
    assert parameters["warmup"]["task_duration"] == 30
    assert parameters["post"]["captions"] == CAPTION
    assert parameters["post"]["material_list"] == [FILE]


def test_progress_and_table_move_while_the_phones_work(
    run: str, ui: PrefectUi, simulator: Simulator
) -> None:
    ui.open_artifact(run, "tikmatrix-progress")
    seen = [ui.progress()]
    until("phone-4 has failed", lambda: simulator.engine.stats()["failed"] == 1)

    def it_tells() -> bool:
        ui.look_again()
        seen.append(ui.progress())
        return "1 failed; running: " in ui.words()

    until("the progress tells of the failed job", it_tells, 15)
    ui.photograph("progress-while-running")
    assert seen == sorted(seen)
    assert 0 <= seen[0] < seen[-1] < 100

    ui.open_artifact(run, "tikmatrix-jobs")
    worst, *others = ui.table()
    ui.photograph("jobs-while-running")
    assert (worst["phone"], worst["status"], worst["remark"]) == (
        "phone-4",
        "failed",
        "element not found",
    )
    assert [row["phone"] for row in others if row["status"] == "running"]


def test_the_table_tells_what_became_of_each_phone(
    ended: str, ui: PrefectUi, simulator: Simulator
) -> None:
    """Each row is a job as the simulator knows it, and a post that was never begun says why."""
    ui.open_artifact(ended, "tikmatrix-jobs")
    expect(ui.page.get_by_role("main")).to_contain_text("12 of 12 jobs have ended")
    rows = ui.table()
    shown = [(it["phone"], it["script"], it["job"], it["status"], it["remark"]) for it in rows]
    of_simulator = {
        (job.serial, job.script_name, str(job.id), STATUSES[job.status], job.remark)
        for job in simulator.jobs
    }
    why = "warm-up failed (element not found)"
    assert {*shown} == of_simulator | {("phone-4", "post", "", "not started", why)}
    assert len(shown) == 12
    assert [row["phone"] for row in rows[:2]] == ["phone-4", "phone-4"], "what needs a hand first"


def test_the_summary_says_it_in_a_sentence_and_a_picture(ended: str, ui: PrefectUi) -> None:
    ui.open_artifact(ended, "tikmatrix-summary")
    main = ui.page.get_by_role("main")
    expect(main.get_by_role("heading", name=SENTENCE)).to_be_visible()
    expect(main.get_by_role("row", name="account_warmup 6 5 1 0")).to_be_visible()
    expect(main.get_by_role("row", name="post 6 5 0 1")).to_be_visible()
    failed = main.get_by_role("row", name="phone-4 account_warmup")
    expect(failed).to_contain_text("element not found")
    picture = main.get_by_role("img", name="Timeline")
    assert picture.evaluate("it => it.complete && it.naturalWidth > 0 && it.width > 400")
    drawn = base64.b64decode(str(picture.get_attribute("src")).partition(";base64,")[2]).decode()
    assert [phone for phone in PHONES if f">{phone}<" in drawn] == PHONES
    ui.photograph("summary")


def test_the_run_shows_its_sentence_its_tasks_and_a_graph(ended: str, ui: PrefectUi) -> None:
    ui.open_run(ended, "Details")
    expect(ui.page.get_by_role("tabpanel")).to_contain_text(SENTENCE)
    ui.open_run(ended, "Task Runs")
    expect(ui.page.get_by_role("tabpanel")).to_contain_text("Failed")
    for phone in PHONES:
        count = int(phone != "phone-4")
        expect(ui.page.get_by_role("link", name=f"warm up {phone}", exact=True)).to_have_count(1)
        expect(ui.page.get_by_role("link", name=f"post on {phone}", exact=True)).to_have_count(
            count
        )
    ui.open_run(ended, "Artifacts")

    def painted() -> bool:
        colours = ui.colours_of_graph()
        return colours["green"] > 5 * colours["red"] > 500

    until("the graph shows a red bar and many green ones", painted, 20)
    ui.photograph("run")


def test_the_event_feed_tells_the_story_of_one_phone(ended: str, ui: PrefectUi) -> None:
    """No choice in the feed leads to a phone; the summary does."""
    ui.open_artifact(ended, "tikmatrix-summary")
    ui.page.get_by_role("link", name="phone-4").first.click()
    expect(ui.page.get_by_text("1 resource selected")).to_be_visible()

    def named(event: str) -> Locator:
        return ui.page.get_by_text(f"tikmatrix.{event}", exact=True)

    def is_told() -> bool:
        ui.page.reload()
        return ui.shows(named("account_warmup.failed"))

    until("the feed, which leaves out the present minute, tells the end of the warm-ups", is_told)
    for event, times in {"job.running": 1, "job.failed": 1, "job.completed": 0}.items():
        expect(named(event)).to_have_count(times)
    ui.photograph("events-of-a-phone", height=1450)
