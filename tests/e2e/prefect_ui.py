"""Prefect's UI as a person uses it: what is clicked and read is what is written on the page."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page, expect
from playwright.sync_api import TimeoutError as NotInTime

from tests.real_worker import until

IMAGES = Path(__file__).parents[2] / "docs" / "images"


class PrefectUi:
    """A browser's page with the UI that a new browser gets."""

    def __init__(self, page: Page, address: str) -> None:
        self.page, self._address = page, address

    def open(self, path: str = "/") -> None:
        self.page.goto(self._address + path)

    def words(self) -> str:
        """All that is to be read, without the menu."""
        return str(self.page.get_by_role("main").inner_text())

    def shows(self, what: Locator) -> bool:
        """Whether it is on the page, once the page has had time to ask for it."""
        try:
            what.wait_for(timeout=2000)
        except NotInTime:
            return False
        return True

    def photograph(self, name: str, height: int = 900) -> None:
        """Take the picture `docs/images/{name}.png` of what is to be seen."""
        IMAGES.mkdir(exist_ok=True)
        self.page.set_viewport_size({"width": 1280, "height": height})
        self.page.mouse.move(0, 0)  # what the mouse is on looks different
        self.page.screenshot(path=IMAGES / f"{name}.png", animations="disabled")

    # The form of a deployment

    def open_form(self, deployment: str) -> None:
        self.open()
        self.page.get_by_role("link", name="Deployments").click()
        self.page.get_by_role("link", name=deployment).first.click()
        self.page.get_by_role("main").get_by_role("button", name="Run", exact=True).click()
        self.page.get_by_role("menuitem", name="Custom run").click()
        expect(self.page.get_by_role("heading", name="Parameters")).to_be_visible()
        self.page.wait_for_load_state("networkidle")  # a click before that is lost

    def label(self, title: str) -> Locator:
        written = re.compile(rf"^{re.escape(title)}( \(Optional\))?$")
        return self.page.locator("label").filter(has_text=written).first

    def field(self, title: str) -> Locator:
        """What belongs to a label of the form."""
        return self.label(title).locator("xpath=following::fieldset[1]")

    def fill_list(self, title: str, entries: list[str]) -> None:
        field = self.field(title)
        for number, entry in enumerate(entries):
            field.get_by_role("button", name="Add item").click()
            field.get_by_role("textbox").nth(number).fill(entry)

    def submit(self) -> str:
        """Submit the form and go to the run that it made; return the run's id."""

        def is_taken() -> bool:
            with self.page.expect_response(re.compile("/create_flow_run$")) as answer:
                self.page.get_by_role("button", name="Submit").click()
            return bool(answer.value.status == 201)  # 503: its database was locked for a moment

        until("the form is taken", is_taken)
        self.page.get_by_text("View run").click()
        self.page.wait_for_url("**/flow-run/*")
        found = re.search(r"flow-run/([0-9a-f-]{36})", self.page.url)
        assert found, self.page.url
        return found[1]

    # A run

    def open_run(self, run_id: str, tab: str) -> None:
        self.open(f"/v2/runs/flow-run/{run_id}")
        self.page.get_by_role("tab", name=tab, exact=True).click()

    def open_artifact(self, run_id: str, kind: str) -> None:
        """By its card on the run's page, once it is there; `kind` is how its key begins."""
        card = self.page.get_by_role("tabpanel").get_by_role("link", name=kind)

        def is_there() -> bool:
            self.open_run(run_id, "Artifacts")
            return self.shows(card)

        until(f"the card {kind}", is_there)
        card.click()
        self.page.get_by_role("link", name=re.compile("^[0-9a-f]{8}$")).first.click()
        self._artifact_is_shown()

    def look_again(self) -> None:
        """At an artifact: what is on the page stays as it was until it is loaded again."""
        self.page.reload()
        self._artifact_is_shown()

    def _artifact_is_shown(self) -> None:
        expect(self.page.get_by_role("button", name="Show Raw Data")).to_be_visible()

    def progress(self) -> float:
        """The percentage on the page of a progress artifact."""
        words = self.page.get_by_text("Progress:").inner_text()
        return float(words.removeprefix("Progress:").removesuffix("%"))

    def table(self) -> list[dict[str, str]]:
        """All rows of a table artifact, page by page."""
        onward = self.page.get_by_role("button", name="Go to next page")
        rows = self._rows_to_be_seen()
        while onward.is_enabled():
            onward.click()
            rows += self._rows_to_be_seen()
        return rows

    def _rows_to_be_seen(self) -> list[dict[str, str]]:
        heads = self.page.get_by_role("columnheader").all_inner_texts()
        rows = self.page.get_by_role("table").locator("tbody tr").all()
        return [
            dict(zip(heads, row.get_by_role("cell").all_inner_texts(), strict=True)) for row in rows
        ]

    def colours_of_graph(self) -> dict[str, int]:
        """How many points of a run's graph, which is painted, are green and red."""
        painted = self.page.locator("canvas").first.screenshot()
        counted: Any = self.page.evaluate(COUNT_COLOURS, list(painted))
        return dict(counted)


COUNT_COLOURS = """
async bytes => {
    const image = await createImageBitmap(new Blob([new Uint8Array(bytes)]));
    const canvas = new OffscreenCanvas(image.width, image.height).getContext('2d');
    canvas.drawImage(image, 0, 0);
    const points = canvas.getImageData(0, 0, image.width, image.height).data;
    const counted = {green: 0, red: 0};
    for (let at = 0; at < points.length; at += 4) {
        const [red, green, blue] = points.slice(at, at + 3);
        counted.red += red > 180 && green < 60 && blue < 80;
        counted.green += green > 130 && red < 80 && blue < 120;
    }
    return counted;
}
"""
