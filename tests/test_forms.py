"""The form that the Prefect UI makes of each flow, for people who do not know Python."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect import Flow
from prefect.utilities.callables import parameter_schema

from flows.warm_up import warm_up
from tests.test_deployment import ENTRIES, Api
from tikmatrix_tasks import TikMatrix
from tikmatrix_tasks.simulator import Simulator

PHONE = {"serials": ["phone-1"]}
USERS = {"target_users": ["someone"]}
POSTS = {"target_post_urls": ["https://www.tiktok.com/@a/video/1"], "comment_content": ["nice"]}
PAIRS = {"pairs": [{"phone": "phone-1", "user": "someone"}], "followed_by": str(uuid4())}
LEAST: dict[str, dict[str, Any]] = {
    "daily-summary": {},
    "warmup-then-post": PHONE,
    "post": PHONE,
    "follow": {**PHONE, "follow": USERS},
    "unfollow": {**PHONE, "unfollow": USERS},
    "comment": {**PHONE, "comment": POSTS},
    "warm-up": PHONE,
    "run-custom-script": {**PHONE, "script": {"script": "login"}},
    "post-from-table": {"table": "C:/posts.csv"},
    "follow-then-unfollow": {**PHONE, "follow": USERS},
    "unfollow-pairs": PAIRS,
    "retry-failed-jobs": {},
    "clean-up-jobs": {},
    "stop-orphans": {},
    "check-health": {},
}
"""The least that an operator fills in."""
EARLY = ("serials", "usernames", "table", "pairs", "warmup", "post", "follow", "script")
LATE = ("timeout_seconds", "on_timeout", "retry_failed", "success", "max_jobs", "dry_run")


def flow_of(name: str) -> Flow[Any, Any]:
    module = name.replace("-", "_")
    found: Flow[Any, Any] = getattr(importlib.import_module(f"flows.{module}"), module)
    return found


def schema_of(name: str) -> dict[str, Any]:
    return parameter_schema(flow_of(name)).model_dump_for_openapi()


def fields_of(flow: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each parameter, and each field of the boxes among them."""
    schema = schema_of(flow)
    boxes = schema.get("definitions", {})
    for name, shown in schema["properties"].items():
        # As the UI does, and as pydantic supposes when it leaves out a title like the box's own.
        yield name, {**boxes.get(shown.get("$ref", "").rpartition("/")[2], {}), **shown}
    for title, box in boxes.items():
        for field, shown in box.get("properties", {}).items():
            yield f"{title}.{field}", shown


def form_values(schema: dict[str, Any], properties: dict[str, Any]) -> dict[str, Any]:
    """What Prefect's form sends of fields that nobody touched: each default, box by box."""
    values = {}
    for name, shown in properties.items():
        if "$ref" in shown and "default" in shown:
            box = schema["definitions"][shown["$ref"].rpartition("/")[2]]
            values[name] = form_values(schema, box["properties"]) | shown["default"]
        elif "default" in shown:
            values[name] = shown["default"]
    return values


def test_every_deployment_is_looked_at() -> None:
    assert sorted(LEAST) == sorted(entry["name"] for entry in ENTRIES)


@pytest.mark.parametrize("name", LEAST)
def test_every_field_has_a_title_and_a_help_text(name: str) -> None:
    for field, shown in fields_of(name):
        title, text = shown.get("title", ""), shown.get("description", "")
        assert title[:1].isupper(), field
        assert "_" not in title, field
        assert text[:1].isupper(), field
        assert text.endswith("."), field
        assert text.rstrip(".") != title, field
        for python in ("`", "None", "null", "True", "False", "Args:", "Literal"):
            assert python not in text, f"{field}: {python}"


@pytest.mark.parametrize("name", LEAST)
def test_choices_are_words(name: str) -> None:
    for field, shown in fields_of(name):
        for word in shown.get("enum", ()):
            assert str(word).isalpha(), f"{field}: {word!r}"


@pytest.mark.parametrize("name", LEAST)
def test_a_parameter_that_may_be_left_out_has_words_for_both_ways(name: str) -> None:
    """Without them its buttons would say "float" and "None"."""
    for parameter, shown in schema_of(name)["properties"].items():
        for option in shown.get("anyOf", ()):
            assert option["title"][:1] == option["title"][:1].upper(), parameter
            assert not {"str", "int", "float", "list"} & {option["title"]}, parameter


@pytest.mark.parametrize("name", LEAST)
def test_a_setting_that_may_be_left_out_is_a_plain_input(name: str) -> None:
    for field, shown in fields_of(name):
        if "." in field and not field.startswith(("TikMatrix.", "FollowPair.")):
            options = [option for option in shown.get("anyOf", ()) if "$ref" not in option]
            assert options in ([], [{"type": "null"}]), field
            assert shown.get("default", "") is not None or "anyOf" in shown, field


@pytest.mark.parametrize("name", LEAST)
def test_what_matters_comes_first(name: str) -> None:
    properties = schema_of(name)["properties"]
    names = sorted(properties, key=lambda parameter: properties[parameter]["position"])
    assert names[0] in ("serials", "table", "pairs", "day")
    required = set(schema_of(name).get("required", ()))
    assert required <= set(names[:3])
    first = [parameter for parameter in names if parameter in EARLY]
    last = [parameter for parameter in names if parameter in LATE]
    if "tikmatrix" in names:
        assert names.index(first[-1]) < names.index("tikmatrix")
    assert last == [parameter for parameter in LATE if parameter in last]
    assert names[len(names) - len(last) :] == last


def test_a_warm_up_needs_nothing_but_phones() -> None:
    schema = schema_of("warm-up")
    assert "required" not in schema
    assert schema["properties"]["serials"]["default"] == [], "its form offers to add a phone"


@pytest.fixture(scope="module")
def deployments(prefect_address: str) -> Iterator[dict[str, str]]:
    """The id of each flow's deployment, without a worker that would run it."""
    api, ids = Api(prefect_address), {}
    for name in LEAST:
        flow = api.call("POST", "/flows/", {"name": name})["id"]
        body = {
            "name": f"form-{name}",
            "flow_id": flow,
            "parameter_openapi_schema": schema_of(name),
            "enforce_parameter_schema": True,
        }
        ids[name] = api.call("POST", "/deployments/", body)["id"]
    yield ids
    for deployment in ids.values():
        api.call("DELETE", f"/deployments/{deployment}")


@pytest.mark.parametrize("name", LEAST)
@pytest.mark.parametrize("way", ["least", "form", "nulls"])
def test_a_run_starts_with_the_least_an_operator_fills_in(
    name: str, way: str, deployments: dict[str, str], prefect_address: str
) -> None:
    """By HTTP with nothing else, from the form with all it sends, and with null for what is unset;
    and the flow takes it."""
    schema = schema_of(name)
    parameters = dict(LEAST[name])
    untouched = form_values(schema, schema["properties"])
    if way == "form":
        parameters = untouched | parameters
    elif way == "nulls":
        unset = [key for key, shown in schema["properties"].items() if "anyOf" in shown]
        parameters = dict.fromkeys(unset) | parameters
    path = f"/deployments/{deployments[name]}/create_flow_run"
    state = {"type": "CANCELLED"}  # so that nothing waits for a worker
    answer = Api(prefect_address).answer("POST", path, {"parameters": parameters, "state": state})
    assert answer.status_code == 201, answer.text
    assert flow_of(name).validate_parameters(parameters)


@pytest.mark.parametrize(
    "wrong",
    [
        {"start_time": "25:00"},
        {"when_busy": "sometimes"},
        {"max_jobs": 0},
        {"warmup": {"unheard": 1}},
    ],
)
def test_what_does_not_fit_is_still_refused(
    wrong: dict[str, Any], deployments: dict[str, str], prefect_address: str
) -> None:
    path = f"/deployments/{deployments['warm-up']}/create_flow_run"
    answer = Api(prefect_address).answer("POST", path, {"parameters": {**PHONE, **wrong}})
    assert answer.status_code == 409


def test_a_form_that_names_accounts_leaves_phones_empty(
    prefect_api: str, simulator: Simulator, tikmatrix: TikMatrix
) -> None:
    """The form sends an empty list of phones then."""
    schema = schema_of("warm-up")
    sent = form_values(schema, schema["properties"])
    assert sent["serials"] == []
    sent |= {"usernames": ["phone-1-account-1"], "tikmatrix": tikmatrix, "dry_run": True}
    state = warm_up(**sent, return_state=True)
    assert "account_warmup on phone-1-account-1, 1 job" in str(state.message)


def test_an_untouched_form_sends_what_tikmatrix_would_take_anyway(
    prefect_api: str, simulator: Simulator, tikmatrix: TikMatrix
) -> None:
    schema = schema_of("warm-up")
    sent = form_values(schema, schema["properties"]) | PHONE | {"tikmatrix": tikmatrix}
    assert warm_up(**sent, return_state=True).is_completed()
    (body,) = simulator.requests.bodies("POST /task")
    assert body["serials"] == ["phone-1"]
    config = body["script_config"]
    assert config["task_duration"] == 600
    assert not {"topic", "comment", "chatgpt_settings"} & set(config)


def test_no_flow_shows_python_in_its_description() -> None:
    for path in Path("flows").glob("[!_]*.py"):
        text = str(flow_of(path.stem).description)
        assert not {"Args:", ">>>"} & set(text.split()), path.name
