"""The Prefect block that says where TikMatrix listens."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Annotated, Any, ClassVar

from prefect.blocks.core import Block
from prefect.blocks.system import Secret
from prefect.types import SecretDict
from pydantic import (
    AfterValidator,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    HttpUrl,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from tikmatrix_tasks.client import TikMatrixClient, normalized_base_url
from tikmatrix_tasks.errors import InvalidRequest
from tikmatrix_tasks.settings import TikMatrixSettings

_own_form: ContextVar[bool] = ContextVar("_own_form", default=False)

BaseUrl = Annotated[str, AfterValidator(normalized_base_url)]


class TikMatrix(Block):
    """
    One TikMatrix: the address of its Local API and how patiently to talk to it.

    A field that is left empty takes the worker's setting of that name, or else its default.

    Example:
        Load a stored block and run a job with it:
        ```python
        from tikmatrix_tasks import TikMatrix, Post, run_script

        tikmatrix = TikMatrix.load("BLOCK_NAME")
        run_script(Post(captions="Hi"), serials=["phone-1"], tikmatrix=tikmatrix)
        ```
    """

    # Prefect's own `extra="allow"` would make a reference to a saved block, which is what the UI's
    # picker sends, valid in two ways, and a deployment that enforces its schema refuses that. And a
    # field that is spelled wrongly is to be refused, not ignored.
    model_config = ConfigDict(extra="forbid")

    _block_type_name: ClassVar[str | None] = "TikMatrix"
    _block_type_slug: ClassVar[str | None] = "tikmatrix"
    _documentation_url: ClassVar[HttpUrl | None] = HttpUrl(
        "https://tikmatrix.com/docs/api/local-api"
    )
    _logo_url: ClassVar[HttpUrl | None] = None

    base_url: BaseUrl | None = Field(
        default=None,
        title="Base URL",
        description="The Local API's address, such as http://localhost:50809/api/v1.",
    )
    timeout_seconds: float | None = Field(
        title="Time-out", default=None, gt=0, description="Time-out of one request, in seconds."
    )
    headers: SecretDict | None = Field(
        default=None,
        description="Headers to send with every request, for a proxy that asks for them.",
    )
    verify_tls: bool = Field(
        default=True,
        title="Verify TLS",
        description="Whether the certificate is checked when the address is https.",
    )
    poll_interval_seconds: float | None = Field(
        title="Shortest time between looks",
        default=None,
        gt=0,
        description="The shortest time between two looks at jobs, in seconds.",
    )
    max_poll_interval_seconds: float | None = Field(
        title="Longest time between looks",
        default=None,
        gt=0,
        description="The longest time between two looks at jobs, in seconds.",
    )
    failure_grace_seconds: float | None = Field(
        title="Grace for failed jobs",
        default=None,
        ge=0,
        description="How long Auto Retry may still revive a failed job, in seconds. 0 where Auto "
        "Retry is off.",
    )
    outage_budget_seconds: float | None = Field(
        title="Longest outage",
        default=None,
        ge=0,
        description="How long a wait puts up with no answer, in seconds.",
    )
    settle_seconds: float | None = Field(
        title="Time to settle",
        default=None,
        ge=0,
        description="How long to look for jobs after a lost answer before sending again, in "
        "seconds.",
    )
    max_jobs: int | None = Field(
        title="Most jobs",
        default=None,
        ge=1,
        description="The most jobs that one submission may create.",
    )

    @classmethod
    def model_json_schema(cls, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The form by which a block is made and saved; there, headers are kept encrypted."""
        token = _own_form.set(True)
        try:
            return super().model_json_schema(*args, **kwargs)
        finally:
            _own_form.reset(token)

    @classmethod
    def __get_pydantic_json_schema__(
        cls, core_schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> JsonSchemaValue:
        """As a flow's parameter it takes no headers: a run's parameters are stored and shown."""
        schema = handler(core_schema)
        if not _own_form.get():
            # Of the ways to say so, this is the one whose refusal does not repeat the values.
            handler.resolve_ref_schema(schema)["properties"]["headers"] = {
                "title": "Headers",
                "description": "In a saved block only.",
                "type": ["object", "null"],
                "additionalProperties": False,
                "default": None,
            }
        return schema

    @model_validator(mode="before")
    @classmethod
    def _accept_its_own_form(cls, values: Any) -> Any:
        """Prefect adds the type's name to a block among a run's parameters."""
        if isinstance(values, dict) and values.get("block_type_slug") == cls._block_type_slug:
            return {name: value for name, value in values.items() if name != "block_type_slug"}
        return values

    @property
    def settings(self) -> TikMatrixSettings:
        """This block's fields, and for those left empty the settings."""
        names = TikMatrixSettings.model_fields
        own = {name: getattr(self, name, None) for name in names}
        return TikMatrixSettings(
            **{name: value for name, value in own.items() if value is not None}
        )

    @property
    def connection(self) -> tuple[object, ...]:
        """What two blocks that lead to the same TikMatrix in the same way have in common."""
        headers = self.headers.get_secret_value() if self.headers else {}
        settings = self.settings
        return (
            settings.base_url,
            settings.timeout_seconds,
            self.verify_tls,
            tuple(sorted(headers.items())),
        )

    def get_client(self) -> TikMatrixClient:
        """A client of this TikMatrix. Close it, or use it with `async with`.

        Secrets that a script names are read from Prefect's Secret blocks when they are sent.
        """
        settings = self.settings
        headers: dict[str, Any] = self.headers.get_secret_value() if self.headers else {}
        return TikMatrixClient(
            settings.base_url,
            timeout_seconds=settings.timeout_seconds,
            headers={name: str(value) for name, value in headers.items()},
            verify_tls=self.verify_tls,
            read_secret=_read_secret_block,
            redact=settings.redact,
        )


async def _read_secret_block(name: str) -> str:
    try:
        secret: Secret[str] = await Secret.aload(name)
    except ValueError:  # what Prefect raises for a block it does not know
        raise InvalidRequest(
            "api_key_block", f"there is no Prefect Secret block named {name!r}"
        ) from None
    return str(secret.get())


def holds_headers(parameters: Mapping[str, Any]) -> bool:
    """Whether the header values of a block that is not saved stand in a run's parameters."""
    own_names = {*TikMatrix.model_fields, "block_type_slug"}

    def holds(value: object, name: str) -> bool:
        if isinstance(value, list):
            return any(holds(entry, name) for entry in value)
        if not isinstance(value, Mapping):
            return False
        is_block = own_names >= set(value) and (name == "tikmatrix" or "base_url" in value)
        headers = value.get("headers") if is_block else None
        return (isinstance(headers, Mapping) and bool(headers)) or any(
            holds(entry, str(key)) for key, entry in value.items()
        )

    return holds(parameters, "")
