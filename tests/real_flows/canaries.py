"""A process that runs real flows with planted canaries, of which TikMatrix tells all it can.

Each canary is a word that stands nowhere else. Where one is found again tells what came there.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import httpx
from prefect.blocks.system import Secret

from flows.comment import comment
from flows.follow_then_unfollow import follow_then_unfollow
from flows.post import post
from flows.post_from_table import post_from_table
from flows.retry_failed_jobs import retry_failed_jobs
from flows.run_custom_script import run_custom_script
from flows.warmup_then_post import warmup_then_post
from tests.odd_server import OddServer, envelope
from tests.real_worker import ROOT, Process, until
from tikmatrix_tasks import (
    AccountWarmup,
    ChatGPT,
    Comment,
    CustomScript,
    Delay,
    Follow,
    Post,
    TikMatrix,
)
from tikmatrix_tasks.simulator import RUNNING, Options, Simulator

CAPTION = "Canarycaption of a sunny day\nand a Canaryline below it"
CLIP = "C:/Canaryfolder/my Canaryclip.mp4"
FOLDER = r"D:\Canarydrive\holiday"
COMMENT = "Canarycomment, how nice"
IMAGE = "/home/canaryhome/Canaryimage.png"
PROMPT = "Canaryprompt: write something kind"
SETTING = "Canarysetting of a script that nobody knows"
TABLE_CAPTION = "Canaryrow of a table"
OTHERS_CAPTION = "Canaryneighbour who posts by hand"
WRONG = "Canarywrong for a number"
KEY = "sk-Canarykey-0123456789"
HEADER = "Bearer Canaryheader-9876543210"
INLINE = "Bearer Canaryinline-5555555555"

PRIVATE = (
    *("Canarycaption", "Canaryline", "Canaryfolder", "Canaryclip", "Canarydrive"),
    *("Canarycomment", "canaryhome", "Canaryimage", "Canaryprompt", "Canarysetting"),
    *("Canaryrow", "Canaryneighbour", "Canarywrong"),
)
"""What a run's parameters hold by nature, and nothing else may."""
SECRET = ("Canarykey", "Canaryheader", "Canaryinline")
"""What nothing may hold."""

ABOUT_A_POST = f"cannot post '{CLIP}' of {FOLDER} with '{CAPTION}'; {HEADER}"
ABOUT_A_WARM_UP = f"no answer to '{PROMPT}' with {KEY} ({HEADER}); {COMMENT}"
WARM_UP = AccountWarmup(
    task_duration=30,
    comments=[COMMENT],
    generate_by_chatgpt=True,
    chatgpt_settings=ChatGPT(api_key_block="canary-key", prompt=PROMPT),
)
POST = Post(captions=CAPTION, material_list=[CLIP], material_path=FOLDER)


SCRIPTS = Options().scripts


def main() -> None:
    """Failures, refusals, doubts, wrong parameters, a cancellation."""
    home = Path(os.environ["PREFECT_HOME"])
    options = Options(phones=9, speed=500, auto_retry=False, seed=1, scripts=("dance", *SCRIPTS))
    Secret.model_validate({"value": KEY}).save("canary-key", overwrite=True)
    with Simulator(options) as simulator, OddServer() as odd:
        tikmatrix = block_for(simulator.base_url)
        tikmatrix.save("canaries", overwrite=True)
        run_everything(simulator, tikmatrix, home)
        refuse(odd)
        cancel_on_a_worker(simulator, tikmatrix, home)


def block_for(base_url: str) -> TikMatrix:
    fields: dict[str, Any] = {
        "poll_interval_seconds": 0.05,
        "max_poll_interval_seconds": 0.1,
        "failure_grace_seconds": 0,
        "settle_seconds": 0.3,
        "headers": {"Authorization": HEADER},
    }
    return TikMatrix.model_validate({"base_url": base_url, **fields})


def run_everything(simulator: Simulator, tikmatrix: TikMatrix, home: Path) -> None:
    fail = simulator.engine.fail_next
    common: dict[str, Any] = {"tikmatrix": tikmatrix, "return_state": True}

    fail("phone-1", "account_warmup", ABOUT_A_WARM_UP)
    fail("phone-2", "post", ABOUT_A_POST)
    simulator.faults.lose_reply("POST /task", after=1)  # of a post
    three = ["phone-1", "phone-2", "phone-3"]
    warmup_then_post(serials=three, warmup=WARM_UP, post=POST, **common)

    fail("phone-4", "post", ABOUT_A_POST)
    post(serials=["phone-4"], post=POST, **common)

    fail("phone-5", "comment", f"'{COMMENT}' or {IMAGE} was refused")
    urls = ["https://www.tiktok.com/@a/video/1"]
    text = Comment(target_post_urls=urls, comment_content=[COMMENT], comment_image_path=IMAGE)
    comment(serials=["phone-5"], comment=text, **common)

    fail("phone-6", "dance", f"cannot dance to '{SETTING}'")
    dance = CustomScript(script="dance", settings={"song": SETTING})
    run_custom_script(serials=["phone-6"], script=dance, **common)

    table = home / "table.csv"
    table.write_text(f"phone,files,caption\nphone-7,{CLIP},{TABLE_CAPTION}\n", encoding="utf-8")
    fail("phone-7", "post", f"'{TABLE_CAPTION}' is too short")
    for _ in range(2):  # the second run tells what became of it in the first
        post_from_table(table=table, **common)

    fail("phone-8", "follow", f"the proxy does not know {HEADER}")
    soon = Delay(minutes=1 / 60)
    follow = Follow(target_users=["somebody"])
    follow_then_unfollow(serials=["phone-8"], follow=follow, unfollow_after=soon, **common)

    fail("phone-9", "post", f"'{OTHERS_CAPTION}' was refused", times=2)
    settings = {"captions": OTHERS_CAPTION, "material_list": [CLIP]}
    (job_id,) = simulator.engine.operator_create("post", settings, serials=["phone-9"])
    until("it failed", lambda: simulator.engine.get(job_id).remark)
    retry_failed_jobs(serials=["phone-9"], only_own=False, **common)

    wrong: Any = {"captions": CAPTION, "material_list": [CLIP], "image_count": WRONG}
    post(serials=["phone-1"], post=wrong, **common)


def refuse(odd: OddServer) -> None:
    """A TikMatrix that repeats what it was sent, the second time leaving in doubt what it did."""
    odd.answers["GET /license/check"] = (200, envelope({"plan_name": "Pro", "message": HEADER}))
    odd.answers["GET /task"] = (200, envelope({"tasks": [], "total": 0}))
    odd.answers["GET /task/stats"] = (
        200,
        envelope(dict.fromkeys(("total", "pending", "running", "completed", "failed"), 0)),
    )
    tikmatrix = block_for(odd.base_url)
    for code, said in ((40001, ABOUT_A_POST), (50001, ABOUT_A_POST)):
        odd.answers["POST /task"] = (200, envelope(code=code, message=f"invalid: {said}"))
        post(serials=["phone-1"], post=POST, tikmatrix=tikmatrix, return_state=True)


def cancel_on_a_worker(simulator: Simulator, tikmatrix: TikMatrix, home: Path) -> None:
    """A run as in production, by a saved block; and one that is refused at the form."""
    api = os.environ["PREFECT_API_URL"]

    def call(path: str, body: object) -> httpx.Response:
        return httpx.post(api + path, json=body, timeout=30, trust_env=False)

    call("/work_pools/", {"name": "canaries", "type": "process"})
    source: Any = warmup_then_post.from_source(
        source=str(ROOT), entrypoint="flows/warmup_then_post.py:warmup_then_post"
    )
    deployment = source.deploy(name="canaries", work_pool_name="canaries", ignore_warnings=True)
    start = f"/deployments/{deployment}/create_flow_run"
    long = {**WARM_UP.model_dump(mode="json"), "task_duration": 500_000}
    parameters: dict[str, Any] = {
        "serials": ["phone-1"],
        "warmup": long,
        "post": POST.model_dump(mode="json"),
        "tikmatrix": {"$ref": {"block_document_id": str(tikmatrix._block_document_id)}},
    }
    inline = {"base_url": simulator.base_url, "headers": {"Authorization": INLINE}}
    assert call(start, {"parameters": {**parameters, "tikmatrix": inline}}).status_code == 409

    environment = {**os.environ, "PREFECT_WORKER_QUERY_SECONDS": "1"}
    command = ["prefect", "worker", "start", "--pool", "canaries"]
    worker = Process(command, environment, home / "worker.log")
    worker.start()
    try:
        run = call(start, {"parameters": parameters}).json()["id"]

        def is_running() -> bool:
            return any(job.serial == "phone-1" and job.status == RUNNING for job in simulator.jobs)

        until("its job runs", is_running)
        time.sleep(1)
        cancelling = {"state": {"type": "CANCELLING", "name": "Cancelling"}}
        call(f"/flow_runs/{run}/set_state", cancelling)

        def is_over() -> bool:
            answer = httpx.get(f"{api}/flow_runs/{run}", timeout=30, trust_env=False)
            return bool(answer.json()["state"]["name"] == "Cancelled")

        until("the run is cancelled", is_over)
        until("the hook is done", lambda: "Stopped jobs" in worker.log.read_text("utf-8"))
    finally:
        worker.close()


if __name__ == "__main__":
    main()
