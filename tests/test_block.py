"""The block and the settings: what overrides what, and Prefect's own expectations of a block."""

from __future__ import annotations

from pathlib import Path

import pytest
from prefect.blocks.core import Block
from prefect.testing.standard_test_suites.blocks import BlockStandardTestSuite
from pydantic import ValidationError

from tests.odd_server import OddServer, envelope
from tikmatrix_tasks import TikMatrix, TikMatrixSettings, acheck_license, check_license

PREFIX = "PREFECT_INTEGRATIONS_TIKMATRIX_"


class TestPrefectsOwnSuite(BlockStandardTestSuite):
    @pytest.fixture
    def block(self) -> type[Block]:
        return TikMatrix


def test_defaults_are_tikmatrix_own() -> None:
    settings = TikMatrix().settings
    assert settings.base_url == "http://localhost:50809/api/v1"
    assert settings.failure_grace_seconds == 65
    assert settings.max_jobs == 200


def test_a_field_overrides_a_setting_and_a_setting_a_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(f"{PREFIX}BASE_URL", "http://pc-1:50809/api/v1")
    monkeypatch.setenv(f"{PREFIX}MAX_JOBS", "7")
    monkeypatch.setenv(f"{PREFIX}POLL_INTERVAL_SECONDS", "3")
    settings = TikMatrix(max_jobs=9).settings
    assert (settings.base_url, settings.max_jobs) == ("http://pc-1:50809/api/v1", 9)
    assert settings.poll_interval_seconds == 3


def test_every_setting_can_be_given_in_each_of_prefects_ways(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    toml = "[integrations.tikmatrix]\nmax_jobs = 11\ntimeout_seconds = 4\n"
    (tmp_path / "prefect.toml").write_text(toml)
    (tmp_path / ".env").write_text(f"{PREFIX}MAX_POLL_INTERVAL_SECONDS=33\n")
    monkeypatch.setenv(f"{PREFIX}OUTAGE_BUDGET_SECONDS", "5")
    settings = TikMatrixSettings()
    assert (settings.max_jobs, settings.timeout_seconds) == (11, 4)
    assert (settings.max_poll_interval_seconds, settings.outage_budget_seconds) == (33, 5)


def test_a_field_that_is_spelled_wrongly_is_refused() -> None:
    with pytest.raises(ValidationError, match="base_ulr"):
        TikMatrix.model_validate({"base_ulr": "http://localhost"})


def test_an_impossible_address_is_refused_where_it_is_entered() -> None:
    with pytest.raises(ValidationError, match="base_url"):
        TikMatrix(base_url="ftp://localhost")


def test_an_impossible_address_in_the_settings_is_explained(
    monkeypatch: pytest.MonkeyPatch, prefect_api: str
) -> None:
    monkeypatch.setenv(f"{PREFIX}BASE_URL", "ftp://localhost")
    with pytest.raises(ValueError, match="base_url: must begin with http"):
        check_license()


async def test_a_stored_block_leads_to_its_tikmatrix_and_hides_its_headers(
    prefect_api: str, odd_server: OddServer
) -> None:
    odd_server.answers["GET /license/check"] = (200, envelope({"plan_name": "Team"}))
    block = TikMatrix.model_validate(
        {"base_url": odd_server.base_url, "headers": {"X-Token": "planted"}}
    )
    assert "planted" not in repr(block)
    await block.asave("stored", overwrite=True)
    loaded: TikMatrix = await TikMatrix.aload("stored")
    assert (await acheck_license(loaded)).plan_name == "Team"
    assert odd_server.seen_headers[-1]["X-Token"] == "planted"


def test_the_environment_alone_is_enough(
    prefect_api: str, odd_server: OddServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd_server.answers["GET /license/check"] = (200, envelope({"plan_name": "Pro"}))
    monkeypatch.setenv(f"{PREFIX}BASE_URL", odd_server.base_url)
    assert check_license().plan_name == "Pro"
