"""What we send: the scripts a phone can run, with their settings.

Source of names, defaults and conditions: TikMatrix docs, the five script pages. Our names are
readable, the API's own names are accepted too, and only what was set is sent: an unset setting is
left to TikMatrix's default, which the field shows.

Settings may hold captions, comments and paths, so no error here repeats the value it refuses.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)
from typing_extensions import Self

from tikmatrix_tasks.redaction import remember

Secrets = Mapping[str, str]
"""The value of each secret by its name; put together at the moment of sending only."""


def _split(*separators: str) -> Callable[[object], object]:
    """Take one text with several entries for a list of them."""

    def split(value: object) -> object:
        if isinstance(value, str):
            value = [value]
        if not isinstance(value, Sequence):
            return value
        entries: list[object] = []
        for entry in value:
            parts = [entry]
            if isinstance(entry, str) and entry.strip():
                parts = re.split("[" + "".join(separators) + "]", entry)
                parts = [part.strip() for part in parts if part.strip()]
            entries += parts
        return entries

    return split


def _no_blank_or_repeated(entries: list[str]) -> list[str]:
    if not entries:
        raise ValueError("is empty; leave it out or name at least one")
    if any(not entry.strip() for entry in entries):
        raise ValueError("holds an empty entry")
    if len(set(entries)) < len(entries):
        raise ValueError("names an entry twice")
    return entries


def _no_blank(entries: list[str]) -> list[str]:
    if any(not entry.strip() for entry in entries):
        raise ValueError("holds an empty entry")
    return entries


def _post_urls(urls: list[str]) -> list[str]:
    for url in urls:
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
        on_platform = any(
            host == site or host.endswith("." + site) for site in ("tiktok.com", "instagram.com")
        )
        if parts.scheme not in ("http", "https") or not on_platform:
            raise ValueError(
                "must be full links to posts, such as https://www.tiktok.com/@user/video/123 "
                "or https://www.instagram.com/p/abc/"
            )
    return urls


Lines = Annotated[list[str], BeforeValidator(_split("\n")), AfterValidator(_no_blank)]
Tags = Annotated[list[str], BeforeValidator(_split(",")), AfterValidator(_no_blank_or_repeated)]
Files = Annotated[list[str], AfterValidator(_no_blank_or_repeated)]
Users = Annotated[
    list[str], BeforeValidator(_split("\n", ",")), AfterValidator(_no_blank_or_repeated)
]
PostUrls = Annotated[
    list[str],
    BeforeValidator(_split("\n", ",")),
    AfterValidator(_no_blank_or_repeated),
    AfterValidator(_post_urls),
]
Percent = Annotated[int, Field(ge=0, le=100)]


def _plain_when_unset(schema: dict[str, Any]) -> None:
    """Let a form show an empty input for a setting that may be left out, and send none for it.

    With null as its default it would show the buttons "str" and "None". Prefect's server takes
    null all the same for what has a type and no default.
    """
    for shown in schema.get("properties", {}).values():
        options = [option for option in shown.get("anyOf", ()) if option.get("type") != "null"]
        if len(options) == 1 and "$ref" not in options[0]:
            del shown["anyOf"], shown["default"]
            shown.update(options[0])


class Settings(BaseModel):
    """Settings that TikMatrix takes: strict, frozen, and sent exactly as far as they were set."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        json_schema_extra=_plain_when_unset,
    )

    api_names: ClassVar[Mapping[str, str]] = {}
    """Our name to the API's, where they differ; the API's is accepted too."""
    also_accepted: ClassVar[Mapping[str, str]] = {}
    """Another name of the API's to ours; never sent."""
    api_values: ClassVar[Mapping[str, Mapping[Any, Any]]] = {}
    """For a field with readable choices: our word to the API's value, which is accepted too."""
    separators: ClassVar[Mapping[str, str]] = {}
    """Lists here that the API takes as one text."""
    private: ClassVar[tuple[str, ...]] = ()
    """Settings that nobody outside a run is to read: what is written, and paths."""

    @model_validator(mode="before")
    @classmethod
    def _accept_api_words(cls, values: Any) -> Any:
        if not isinstance(values, Mapping):
            return values
        accepted = dict(values)
        theirs_to_ours = {theirs: ours for ours, theirs in cls.api_names.items()}
        for theirs, ours in {**theirs_to_ours, **cls.also_accepted}.items():
            if theirs in accepted:
                if ours in accepted:
                    raise ValueError(f"give {ours} or {theirs}, not both")
                accepted[ours] = accepted.pop(theirs)
        for name, choices in cls.api_values.items():
            words = {str(value): word for word, value in choices.items()}
            if isinstance(accepted.get(name), str | int):
                accepted[name] = words.get(str(accepted[name]), accepted[name])
        unknown = sorted(str(name) for name in accepted if name not in cls.model_fields)
        if unknown:
            raise ValueError(
                f"{', '.join(unknown)}: no setting of {cls.__name__}; there are "
                f"{', '.join(cls.model_fields)}"
            )
        return accepted

    def model_post_init(self, context: Any) -> None:
        """Whoever has settings in hand may be told of them by TikMatrix."""
        remember(_texts_in([getattr(self, name) for name in self.private]))

    def __repr_args__(self) -> Iterable[tuple[str | None, object]]:
        """Which settings were set; their values may be captions and paths."""
        return [(None, name) for name in sorted(self.model_fields_set)]

    @model_serializer(mode="wrap")
    def _only_what_was_set(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Keep unset settings unset when a run's parameters are stored and read back."""
        values: dict[str, Any] = handler(self)
        return {name: value for name, value in values.items() if name in self.model_fields_set}

    def to_api(self, secrets: Secrets, *, with_defaults: bool = False) -> dict[str, Any]:
        """The settings that were set, or all that have a value, by the API's names and values."""
        sent: dict[str, Any] = {}
        for name in type(self).model_fields:
            value = getattr(self, name)
            if value is None or not (with_defaults or name in self.model_fields_set):
                continue
            if name in self.api_values:
                value = self.api_values[name][value]
            elif name in self.separators:
                value = self.separators[name].join(value)
            elif isinstance(value, Settings):
                value = value.to_api(secrets, with_defaults=with_defaults)
            sent[self.api_names.get(name, name)] = value
        return sent


class Script(Settings):
    """One thing a phone can be told to do."""

    script_name: ClassVar[str]

    @property
    def name(self) -> str:
        """The API's `script_name`."""
        return self.script_name

    @property
    def targets(self) -> tuple[str, ...]:
        """Whom or what it acts on: one job per phone and target; empty: one job per phone."""
        return ()

    def only_targets(self, targets: Sequence[str]) -> Script:
        """The same script for some of its targets."""
        raise NotImplementedError(f"{self.name} has no targets")

    @property
    def expected_seconds(self) -> float | None:
        """How long one job is expected to run, where the settings tell."""
        return None

    @property
    def secret_names(self) -> tuple[str, ...]:
        """The names of the secrets that sending it takes."""
        return ()


class Post(Script):
    """Publish a video or images."""

    script_name: ClassVar[str] = "post"

    api_values = {
        "content_type": {"video": 0, "images": 1},
        "add_sound": {"default": "-1", "off": "0", "on": "1", "custom": "custom"},
        "add_product_link": {False: 0, True: 1},
    }
    separators = {"materials_tags": ","}
    private = ("captions", "material_path", "material_list")

    content_type: Literal["video", "images"] = Field(
        default="video", title="Content", description="What is published."
    )
    captions: str = Field(
        title="Caption",
        default="",
        description="The text of the post. Of {a|b|c} one is picked at random.",
    )
    material_list: Files | None = Field(
        title="Files",
        default=None,
        description="Files on the TikMatrix machine, such as C:/videos/v.mp4, an item for each. "
        "The recommended way.",
    )
    image_count: int = Field(
        title="Images per post",
        default=1,
        ge=1,
        description="How many images one post holds. For images only.",
    )
    post_way: Literal["share", "addButton", "useSound"] = Field(
        title="Way to post",
        default="share",
        description="The way through the app. Of the three useSound needs a sound.",
    )
    material_source: Literal["materialLibrary", "localFolder"] = Field(
        title="Source of files",
        default="materialLibrary",
        description="TikMatrix's library, or a folder. Ignored when files are named above.",
    )
    material_path: str | None = Field(
        title="Folder",
        default=None,
        min_length=1,
        description="A folder on the TikMatrix machine, such as C:/videos. Needed for localFolder.",
    )
    materials_tags: Tags | None = Field(
        title="Library tags",
        default=None,
        description="Only material of the library with these tags.",
    )
    upload_wait_time: int = Field(
        title="Wait for the upload",
        default=30,
        ge=0,
        description="How long to wait for the upload, in seconds.",
    )
    sound_wait_time: int = Field(
        title="Wait for the sound",
        default=10,
        ge=0,
        description="How long to wait for the sound, in seconds.",
    )
    add_sound: Literal["default", "off", "on", "custom"] = Field(
        title="Add a sound",
        default="default",
        description="Whether a sound is added. Custom needs a sound to search for.",
    )
    sound_name: str | None = Field(
        title="Sound",
        default=None,
        min_length=1,
        description="The sound's name. Needed when the way to post is useSound.",
    )
    custom_sound_keyword: str | None = Field(
        title="Sound to search for",
        default=None,
        min_length=1,
        description="What to search for. Needed when the added sound is custom.",
    )
    origin_sound_volume: Percent = Field(
        title="Volume of the original sound",
        default=50,
        description="Volume of the original sound, 0 to 100.",
    )
    add_sound_volume: Percent = Field(
        title="Volume of the added sound",
        default=50,
        description="Volume of the added sound, 0 to 100.",
    )
    add_product_link: bool = Field(
        title="Product link", default=False, description="Add a product link. TikTok only."
    )
    placement: Literal["reel", "story"] = Field(
        title="Placement", default="reel", description="Where it appears. Instagram only."
    )

    @model_validator(mode="after")
    def _conditions(self) -> Self:
        if self.post_way == "useSound" and self.sound_name is None:
            raise ValueError("sound_name is required when post_way is 'useSound'")
        if self.add_sound == "custom" and self.custom_sound_keyword is None:
            raise ValueError("custom_sound_keyword is required when add_sound is 'custom'")
        if (
            self.material_source == "localFolder"
            and self.material_path is None
            and self.material_list is None
        ):
            raise ValueError("material_path is required when material_source is 'localFolder'")
        return self


class _ActsOnUsers(Script):
    also_accepted = {"target_user": "target_users"}

    target_users: Users = Field(
        title="Users",
        description="Names of the users, one in each line. Each phone gets a job for each user.",
    )
    access_method: Literal["direct", "search"] = Field(
        title="Way to the profile",
        default="direct",
        description="Open the profile directly or search for it.",
    )

    @property
    def targets(self) -> tuple[str, ...]:
        return tuple(self.target_users)

    def only_targets(self, targets: Sequence[str]) -> Script:
        return self.model_copy(update={"target_users": list(targets)})


class Follow(_ActsOnUsers):
    """Follow users."""

    script_name: ClassVar[str] = "follow"


class Unfollow(_ActsOnUsers):
    """Unfollow users."""

    script_name: ClassVar[str] = "unfollow"


class Comment(Script):
    """Comment on posts."""

    script_name: ClassVar[str] = "comment"

    also_accepted = {"target_post_url": "target_post_urls"}
    separators = {"comment_content": "\n"}
    private = ("comment_content", "comment_image_path")

    target_post_urls: PostUrls = Field(
        title="Posts",
        description="Links to the posts, one in each line. Each phone gets a job for each post.",
    )
    comment_content: Annotated[Lines, Field(min_length=1)] = Field(
        title="Comments", description="The comments to choose from, one in each line."
    )
    comment_order: Literal["random", "sequential"] = Field(
        title="Order of comments",
        default="random",
        description="In which order comments are taken.",
    )
    insert_emoji: bool = Field(
        title="Add emoji", default=False, description="Add an emoji to each comment."
    )
    comment_image_path: str | None = Field(
        title="Image",
        default=None,
        min_length=1,
        description="An image on the TikMatrix machine to add. TikTok only.",
    )

    @property
    def targets(self) -> tuple[str, ...]:
        return tuple(self.target_post_urls)

    def only_targets(self, targets: Sequence[str]) -> Script:
        return self.model_copy(update={"target_post_urls": list(targets)})


class ChatGPT(Settings):
    """How comments are generated. The key stays in a Prefect Secret block."""

    api_names = {"api_key_block": "api_key"}
    private = ("prompt",)

    api_key_block: str = Field(
        pattern=r"^[a-z0-9][a-z0-9-]{0,62}$",
        title="API key (name of a Secret block)",
        description="The name of the Prefect Secret block that holds the OpenAI key.",
    )
    model: str = Field(
        title="Model", default="gpt-3.5-turbo", min_length=1, description="The model's name."
    )
    prompt: str | None = Field(
        title="Prompt", default=None, description="What the model is asked to write."
    )
    max_tokens: int = Field(
        title="Longest comment", default=100, ge=1, description="The longest comment, in tokens."
    )
    temperature: float = Field(
        title="Variety",
        default=0.7,
        ge=0,
        le=2,
        description="How varied the comments are, from 0 for always alike to 2.",
    )
    base_url: str | None = Field(
        title="Server",
        default=None,
        min_length=1,
        description="Another server that speaks OpenAI's API.",
    )

    @model_validator(mode="before")
    @classmethod
    def _no_key_by_value(cls, values: Any) -> Any:
        if isinstance(values, Mapping):
            block = values.get("api_key_block")
            if "api_key" in values or (isinstance(block, str) and block.startswith("sk-")):
                raise ValueError(
                    "api_key_block takes the name of a Prefect Secret block, never the key itself: "
                    "a run's parameters are stored and shown"
                )
        return values

    def to_api(self, secrets: Secrets, *, with_defaults: bool = False) -> dict[str, Any]:
        sent = super().to_api(secrets, with_defaults=with_defaults)
        sent["api_key"] = secrets[self.api_key_block]
        return sent


class AccountWarmup(Script):
    """Let an account browse for a while, as its owner would."""

    script_name: ClassVar[str] = "account_warmup"
    api_names = {
        "topics": "topic",
        "like_probability": "like_probable",
        "follow_probability": "floow_probable",
        "collect_probability": "collect_probable",
        "comment_probability": "comment_probable",
        "comments": "comment",
    }
    separators = {"topics": "\n", "comments": "\n"}
    private = ("comments",)

    task_duration: int = Field(
        default=600, ge=1, title="Duration", description="How long the warm-up runs, in seconds."
    )
    topics: Lines | None = Field(
        title="Topics", default=None, description="Topics to look for, one in each line."
    )
    min_duration: int = Field(
        title="Shortest time on a video",
        default=15,
        ge=1,
        description="The shortest time spent on a video, in seconds.",
    )
    max_duration: int = Field(
        title="Longest time on a video",
        default=30,
        ge=1,
        description="The longest time spent on a video, in seconds.",
    )
    like_probability: Percent = Field(
        title="Chance to like", default=0, description="Chance to like a video, 0 to 100 percent."
    )
    follow_probability: Percent = Field(
        title="Chance to follow",
        default=0,
        description="Chance to follow its author, 0 to 100 percent.",
    )
    collect_probability: Percent = Field(
        title="Chance to save",
        default=0,
        description="Chance to add it to the favourites, 0 to 100 percent.",
    )
    comment_probability: Percent = Field(
        title="Chance to comment", default=0, description="Chance to comment, 0 to 100 percent."
    )
    comments: Lines | None = Field(
        title="Comments", default=None, description="The comments to choose from, one in each line."
    )
    insert_emoji: bool = Field(
        title="Add emoji", default=False, description="Add an emoji to each comment."
    )
    comment_order: Literal["random", "sequential"] = Field(
        title="Order of comments",
        default="random",
        description="In which order comments are taken.",
    )
    generate_by_chatgpt: bool = Field(
        title="Comments by ChatGPT",
        default=False,
        description="Let a model write the comments, as the ChatGPT settings say.",
    )
    chatgpt_settings: ChatGPT | None = Field(
        title="ChatGPT",
        default=None,
        description="How comments are generated. Needed for comments by ChatGPT.",
    )

    @property
    def expected_seconds(self) -> float | None:
        return float(self.task_duration)

    @property
    def secret_names(self) -> tuple[str, ...]:
        return (self.chatgpt_settings.api_key_block,) if self.chatgpt_settings else ()

    @model_validator(mode="after")
    def _conditions(self) -> Self:
        if self.min_duration > self.max_duration:
            raise ValueError(
                f"min_duration ({self.min_duration}) must not be above max_duration "
                f"({self.max_duration})"
            )
        return self


class CustomScript(Script):
    """Any other script of TikMatrix; its settings go through untouched.

    Which scripts the API runs depends on TikMatrix's version; one it does not run ends in
    `ScriptNotSupported` (code 40003).
    """

    script_name: ClassVar[str] = ""

    api_names = {"script": "script_name", "settings": "script_config"}

    script: str = Field(
        title="Script",
        min_length=1,
        description="TikMatrix's name of the script, such as login or like.",
    )
    settings: dict[str, Any] = Field(
        title="Settings",
        default_factory=dict,
        description="Its settings as JSON, by TikMatrix's names.",
    )

    def model_post_init(self, context: Any) -> None:
        remember(private_texts(self.settings))

    @property
    def name(self) -> str:
        return self.script

    @property
    def _target_keys(self) -> tuple[str, ...]:
        return {
            "follow": ("target_users", "target_user"),
            "unfollow": ("target_users", "target_user"),
            "comment": ("target_post_urls", "target_post_url"),
        }.get(self.script, ())

    @property
    def targets(self) -> tuple[str, ...]:
        """As TikMatrix documents it for the three scripts that act on targets."""
        keys = [key for key in self._target_keys if self.settings.get(key)]
        given: object = self.settings[keys[0]] if keys else []
        entries = _split("\n", ",")(given)
        return tuple(map(str, entries)) if isinstance(entries, list) else ()

    def only_targets(self, targets: Sequence[str]) -> CustomScript:
        list_key, text_key = self._target_keys
        settings = {name: value for name, value in self.settings.items() if name != text_key}
        return CustomScript(script=self.script, settings={**settings, list_key: list(targets)})

    def to_api(self, secrets: Secrets, *, with_defaults: bool = False) -> dict[str, Any]:
        return dict(self.settings)


def private_texts(settings: Mapping[str, Any]) -> list[str]:
    """The private ones among a job's settings, by the API's names; a setting nobody knows is one.

    For settings that no model holds: those of a row, or of a `CustomScript`.
    """
    return _texts_in([value for name, value in settings.items() if name not in _PUBLIC])


def _texts_in(value: object) -> list[str]:
    """Every text in settings, however deep; of nested settings the private ones."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, Mapping):
        return private_texts(value)
    if isinstance(value, Iterable):
        return [text for entry in value for text in _texts_in(entry)]
    return []


def _public_names() -> set[str]:
    names = {"username", "usernames", "serial", "serials", "target_user", "target_post_url"}
    # What a row may hold of the phone and its account, as the accounts endpoint names it.
    names |= {"platform", "packagename", "package_name", "device", "device_name", "email"}
    for model in (Post, Follow, Unfollow, Comment, AccountWarmup, ChatGPT):
        shown = set(model.model_fields) - {*model.private, "api_key_block", "chatgpt_settings"}
        names |= {model.api_names.get(name, name) for name in shown}
    return names


_PUBLIC = _public_names()
