"""What is sent to TikMatrix: exactly what was set, by its names, and nothing it would refuse."""

from __future__ import annotations

import json

import pytest
from pydantic import ValidationError

from tikmatrix_tasks import (
    AccountWarmup,
    ChatGPT,
    Comment,
    CustomScript,
    Follow,
    InvalidRequest,
    JobRequest,
    Post,
    Script,
    Unfollow,
)

VIDEO_URL = "https://www.tiktok.com/@user/video/7123456789"


def sent(script: Script) -> dict[str, object]:
    return script.to_api({name: f"value of {name}" for name in script.secret_names})


@pytest.mark.parametrize("script", [Post(), AccountWarmup()])
def test_defaults_are_not_sent(script: Script) -> None:
    """A newer TikMatrix may have better defaults than the ones we copied from its docs."""
    assert sent(script) == {}


def test_a_value_equal_to_the_default_is_sent_when_it_was_set() -> None:
    assert sent(AccountWarmup(task_duration=600)) == {"task_duration": 600}


def test_every_post_setting_is_sent_by_the_apis_name_and_value() -> None:
    post = Post(
        content_type="images",
        image_count=3,
        captions="{Hi|Hello} #fyp",
        post_way="useSound",
        material_source="localFolder",
        material_path="C:/material",
        material_list=["C:/v.mp4"],
        materials_tags=["cats", "dogs"],
        upload_wait_time=60,
        sound_wait_time=5,
        add_sound="custom",
        sound_name="Song",
        custom_sound_keyword="happy",
        origin_sound_volume=0,
        add_sound_volume=100,
        add_product_link=True,
        placement="story",
    )
    assert sent(post) == {
        "content_type": 1,
        "image_count": 3,
        "captions": "{Hi|Hello} #fyp",
        "post_way": "useSound",
        "material_source": "localFolder",
        "material_path": "C:/material",
        "material_list": ["C:/v.mp4"],
        "materials_tags": "cats,dogs",
        "upload_wait_time": 60,
        "sound_wait_time": 5,
        "add_sound": "custom",
        "sound_name": "Song",
        "custom_sound_keyword": "happy",
        "origin_sound_volume": 0,
        "add_sound_volume": 100,
        "add_product_link": 1,
        "placement": "story",
    }


def test_every_warm_up_setting_is_sent_by_the_apis_name() -> None:
    """`floow_probable` is the API's own spelling; ours is readable."""
    warmup = AccountWarmup(
        task_duration=900,
        topics=["cooking", "cats"],
        min_duration=10,
        max_duration=20,
        like_probability=1,
        follow_probability=2,
        collect_probability=3,
        comment_probability=4,
        comments=["nice", "wow"],
        insert_emoji=True,
        comment_order="sequential",
        generate_by_chatgpt=True,
        chatgpt_settings=ChatGPT(
            api_key_block="openai",
            model="gpt-4o",
            prompt="be kind",
            max_tokens=50,
            temperature=1.0,
            base_url="http://localhost:1234/v1",
        ),
    )
    assert sent(warmup) == {
        "task_duration": 900,
        "topic": "cooking\ncats",
        "min_duration": 10,
        "max_duration": 20,
        "like_probable": 1,
        "floow_probable": 2,
        "collect_probable": 3,
        "comment_probable": 4,
        "comment": "nice\nwow",
        "insert_emoji": True,
        "comment_order": "sequential",
        "generate_by_chatgpt": True,
        "chatgpt_settings": {
            "api_key": "value of openai",
            "model": "gpt-4o",
            "prompt": "be kind",
            "max_tokens": 50,
            "temperature": 1.0,
            "base_url": "http://localhost:1234/v1",
        },
    }


def test_every_comment_and_follow_setting_is_sent() -> None:
    comment = Comment(
        target_post_urls=[VIDEO_URL],
        comment_content=["first", "second"],
        comment_order="sequential",
        insert_emoji=True,
        comment_image_path="C:/i.png",
    )
    assert sent(comment) == {
        "target_post_urls": [VIDEO_URL],
        "comment_content": "first\nsecond",
        "comment_order": "sequential",
        "insert_emoji": True,
        "comment_image_path": "C:/i.png",
    }
    for script in (Follow, Unfollow):
        assert sent(script(target_users=["a", "b"], access_method="search")) == {
            "target_users": ["a", "b"],
            "access_method": "search",
        }


def test_the_apis_own_names_and_values_are_accepted() -> None:
    """Whoever copies an example from the vendor's page gets what it says."""
    by_api = {"floow_probable": 5, "topic": "a\nb", "comment": "x", "like_probable": 1}
    assert sent(AccountWarmup.model_validate(by_api)) == by_api
    by_api = {"content_type": 1, "add_sound": "-1", "add_product_link": 0, "materials_tags": "a,b"}
    assert sent(Post.model_validate(by_api)) == by_api
    assert Follow.model_validate({"target_user": "a, b\nc\n"}).targets == ("a", "b", "c")
    url = "https://vm.tiktok.com/abc/"
    comment = {"target_post_url": url, "comment_content": "hi"}
    assert sent(Comment.model_validate(comment)) == {
        "target_post_urls": [url],
        "comment_content": "hi",
    }


def test_a_custom_script_goes_through_untouched() -> None:
    settings = {"anything": [1, {"nested": None}], "other": ""}
    custom = CustomScript(script="match_account", settings=settings)
    assert (custom.name, sent(custom)) == ("match_account", settings)


def test_settings_survive_being_stored_as_a_runs_parameters() -> None:
    """A deployment's run gets its parameters as JSON; unset settings must stay unset."""
    warmup = AccountWarmup(task_duration=60, follow_probability=5, topics=["a"])
    stored = json.loads(json.dumps(warmup.model_dump(mode="json")))
    assert stored == {"task_duration": 60, "follow_probability": 5, "topics": ["a"]}
    assert sent(AccountWarmup.model_validate(stored)) == sent(warmup)


@pytest.mark.parametrize(
    ("script", "settings", "words"),
    [
        (Post, {"post_way": "useSound"}, ["sound_name", "useSound"]),
        (Post, {"add_sound": "custom"}, ["custom_sound_keyword", "custom"]),
        (Post, {"material_source": "localFolder"}, ["material_path", "localFolder"]),
        (Post, {"post_way": "email"}, ["post_way", "share", "addButton", "useSound"]),
        (Post, {"content_type": 2}, ["content_type", "video", "images"]),
        (Post, {"origin_sound_volume": 101}, ["origin_sound_volume", "100"]),
        (Post, {"material_list": []}, ["material_list"]),
        (Post, {"caption": "x"}, ["caption", "captions"]),
        (AccountWarmup, {"like_probability": -1}, ["like_probability", "0"]),
        (AccountWarmup, {"floow_probable": 101}, ["follow_probability", "100"]),
        (AccountWarmup, {"min_duration": 40}, ["min_duration", "max_duration", "30"]),
        (AccountWarmup, {"topic": "a", "topics": ["b"]}, ["topics", "topic", "not both"]),
        (AccountWarmup, {"task_duration": 0}, ["task_duration"]),
        (Follow, {}, ["target_users"]),
        (Follow, {"target_users": []}, ["target_users"]),
        (Follow, {"target_users": ["a", " "]}, ["target_users", "empty"]),
        (Unfollow, {"target_users": ["a", "a"]}, ["target_users", "twice"]),
        (Comment, {"target_post_urls": [VIDEO_URL]}, ["comment_content"]),
        (Comment, {"comment_content": ["x"]}, ["target_post_urls"]),
        (Comment, {"comment_content": [], "target_post_urls": [VIDEO_URL]}, ["comment_content"]),
        (
            Comment,
            {"comment_content": ["x"], "target_post_urls": ["@user"]},
            ["target_post_urls", "https://www.tiktok.com/"],
        ),
        (ChatGPT, {"api_key_block": "openai", "temperature": 3}, ["temperature", "2"]),
        (CustomScript, {"script": ""}, ["script"]),
    ],
)
def test_bad_settings_are_refused_with_the_field_and_what_it_takes(
    script: type[Script], settings: dict[str, object], words: list[str]
) -> None:
    with pytest.raises(ValidationError) as refusal:
        script.model_validate(settings)
    for word in words:
        assert word in str(refusal.value)


@pytest.mark.parametrize(
    "settings", [{"api_key": "sk-planted"}, {"api_key_block": "sk-planted"}, {"model": 5}]
)
def test_an_openai_key_is_taken_by_reference_only(settings: dict[str, object]) -> None:
    """A run's parameters are stored and shown; a key among them would be, too."""
    with pytest.raises(ValidationError) as refusal:
        ChatGPT.model_validate(settings)
    assert "sk-planted" not in str(refusal.value)


def test_refusals_and_reprs_repeat_no_caption_or_path() -> None:
    with pytest.raises(ValidationError) as refusal:
        Post(captions="my planted caption", material_list=["C:/planted.mp4", "C:/planted.mp4"])
    assert "planted" not in str(refusal.value)
    assert "planted" not in repr(Post(captions="planted", material_list=["C:/planted.mp4"]))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, ["serials", "usernames"]),
        ({"serials": ("a",), "usernames": ("b",)}, ["serials", "usernames", "not both"]),
        ({"serials": ("a", "")}, ["serials", "empty"]),
        ({"serials": ("a", "a")}, ["serials", "a", "more than once"]),
        ({"usernames": ("u", "u")}, ["usernames", "more than once"]),
        ({"serials": ("a",), "start_time": "24:00"}, ["start_time", "HH:MM"]),
        ({"serials": ("a",), "start_time": "9:00"}, ["start_time", "HH:MM"]),
        ({"serials": ("a",), "min_interval": 5, "max_interval": 1}, ["min_interval"]),
        ({"usernames": ("a",), "enable_multi_account": True}, ["enable_multi_account"]),
    ],
)
def test_impossible_requests_are_refused(fields: dict[str, object], words: list[str]) -> None:
    with pytest.raises(InvalidRequest) as refusal:
        JobRequest(Post(), **fields)  # type: ignore[arg-type]  # fields by name
    for word in words:
        assert word in str(refusal.value)


def test_a_request_counts_its_jobs_as_tikmatrix_does() -> None:
    """Three targets on two phones are six jobs."""
    phones = ("a", "b")
    assert JobRequest(Post(), serials=phones).least_jobs == 2
    assert JobRequest(Follow(target_users=["x", "y", "z"]), serials=phones).least_jobs == 6
    custom = CustomScript(script="follow", settings={"target_user": "x,y\nz"})
    assert JobRequest(custom, serials=phones).least_jobs == 6
    JobRequest(Post(), serials=phones).refuse_above(2)
    with pytest.raises(InvalidRequest, match="max_jobs"):
        JobRequest(Post(), serials=phones).refuse_above(1)


def test_a_request_sends_only_what_was_set() -> None:
    request = JobRequest(Post(captions="x"), serials=("a",))
    assert request.to_api({}) == {
        "serials": ["a"],
        "script_name": "post",
        "script_config": {"captions": "x"},
    }
    full = JobRequest(Post(), usernames=("u",), start_time="09:30", min_interval=1, max_interval=2)
    assert full.to_api({}) == {
        "usernames": ["u"],
        "script_name": "post",
        "script_config": {},
        "start_time": "09:30",
        "min_interval": 1,
        "max_interval": 2,
    }


def test_equal_requests_share_a_fingerprint_and_others_do_not() -> None:
    one = JobRequest(Post(captions="x"), serials=("a",))
    assert one.fingerprint() == JobRequest(Post(captions="x"), serials=("a",)).fingerprint()
    assert one.fingerprint() != JobRequest(Post(captions="y"), serials=("a",)).fingerprint()
    assert one.fingerprint() != JobRequest(Post(captions="x"), serials=("b",)).fingerprint()
