"""Social archives become what the person said and states of themselves, and nothing of others is taken for theirs."""

from __future__ import annotations

import csv
from datetime import UTC, datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.integrations.social.read import read_archive
from app.integrations.social.rows import when
from app.integrations.social.types import Item
from app.integrations.types import Problem, Unreadable
from tests.documents_rig import zipped
from tests.social_rig import FILES, LONG, archive, assigned

CODES = {"ENCRYPTED", "EMPTY", "DAMAGED", "MISLABELLED", "NESTED_ZIP", "TOO_LARGE", "UNSUPPORTED"}


def read(platform: str, files: dict[str, str] | None = None) -> tuple[list[Item], list[Problem]]:
    both = list(read_archive(platform, zipped(dict(files)) if files else archive(platform)))
    return [one for one in both if isinstance(one, Item)], [one for one in both if isinstance(one, Problem)]


def of_kind(items: list[Item], *kinds: str) -> list[tuple[str, bool]]:
    return [(item.text, item.mine) for item in items if item.kind in kinds]


def refused(platform: str, data: bytes) -> Unreadable:
    with pytest.raises(Unreadable) as caught:
        read_archive(platform, data)
    return caught.value


def test_linkedin_tells_who_somebody_is() -> None:
    items, _ = read("linkedin")
    assert of_kind(items, "profile", "position", "education", "skills") == [
        (
            "Name: Ada Byrne\nHeadline: Engineer\nIndustry: Shipbuilding\nLocation: Porto, PT\n"
            "Summary: I build bridges.\nAnd boats.",
            True,
        ),
        ("Lead Engineer at Harbour Ltd, Porto, Jan 2020 – present\nFerries", True),
        ("Engineer at Dock AG, 2016 – 2019", True),
        ("MSc, University of Porto, 2010 – 2015\nRowing", True),
        ("Skills: Welding, Python", True),
    ]


def test_linkedin_tells_what_somebody_said() -> None:
    items, _ = read("linkedin")
    post, undated = (item for item in items if item.kind == "post")
    assert (post.text, post.url) == ('Launch day!\n\nSee "you" there\nhttps://b.example', "https://l.example/s/1")
    assert post.said_at == datetime(2024, 3, 1, 8, 30, tzinfo=UTC)
    assert (undated.text, undated.said_at) == ("No time", None)
    assert of_kind(items, "comment") == [('She said "yes", twice', True)]
    assert of_kind(items, "message") == [("Hi\n\nBob & co", True), ("Hi, a < b", False)]


def test_a_bad_row_is_a_problem_and_the_rest_goes_on() -> None:
    items, problems = read("linkedin")
    assert [(problem.item_id, problem.code) for problem in problems] == [
        ("Positions.csv:2", "BAD_ROW"),
        ("Shares.csv:4", "BAD_ROW"),
    ]
    assert len(items) == 10


def test_without_a_name_no_message_is_the_persons_own() -> None:
    files = {name: text for name, text in FILES["linkedin"].items() if name != "Profile.csv"}
    assert {mine for _, mine in of_kind(read("linkedin", files)[0], "message")} == {False}


def test_reddit_tells_posts_comments_and_messages() -> None:
    items, problems = read("reddit")
    assert [(item.id, item.kind, item.text, item.title, item.mine) for item in items] == [
        ("post-p1", "post", "My boat\n\nIt floats.\n\nMostly.\nhttps://i.example/", "r/boats", True),
        ("comment-c1", "comment", "Use epoxy \\o/", "r/boats", True),
        ("message-m1", "message", "Which colour?", "Paint", True),
        ("message-m2", "message", "Blue", "Paint", False),
        ("chat-h1", "message", "ahoy", "Harbour", True),
    ]
    assert items[0].said_at == datetime(2024, 1, 2, 3, 4, 5, tzinfo=UTC)
    assert items[0].url == "https://r.example/p1"
    assert [problem.item_id for problem in problems] == ["posts.csv:3"]


def test_x_tells_profile_posts_and_messages() -> None:
    items, problems = read("twitter")
    assert [(item.id, item.kind, item.text, item.mine) for item in items] == [
        ("profile", "profile", "Name: Ada\nUsername: @ada_b\nBio: Boats\nLocation: Porto", True),
        ("11", "post", "Launch & party at https://b.example", True),
        ("12", "repost", "RT @bob: boats!", False),
        ("14", "post", LONG.strip(), True),
        ("15", "post", "from the second part", True),
        ("message-d1", "message", "Ahoy", True),
        ("message-d2", "message", "Hi", False),
    ]
    assert items[1].said_at == datetime(2024, 5, 1, 10, tzinfo=UTC)
    assert items[1].url == "https://x.com/ada_b/status/11"
    assert items[-1].said_at == datetime(2024, 5, 4, 10, 5, tzinfo=UTC)
    assert [problem.item_id for problem in problems] == ["data/tweets.js:3", "conversation 7-8:4"]


def test_an_old_archive_of_x_without_wrapping_is_read() -> None:
    old = {"tweet.js": assigned("tweet", [{"id_str": "1", "full_text": "short"}]) + ";\n"}
    assert of_kind(read("x", old)[0], "post") == [("short", True)]


def test_a_damaged_file_is_a_problem_and_the_other_files_are_read() -> None:
    items, problems = read("twitter", FILES["twitter"] | {"data/tweets.js": "window.YTD.tweets.part0 = [{"})
    assert ("data/tweets.js", "DAMAGED") in [(problem.item_id, problem.code) for problem in problems]
    assert ("from the second part", True) in of_kind(items, "post")
    items, problems = read("reddit", FILES["reddit"] | {"posts.csv": "nothing,of,use\n1,2,3\n"})
    assert [(problem.item_id, problem.code) for problem in problems] == [("posts.csv", "DAMAGED")]
    assert len(items) == 4


@pytest.mark.parametrize("platform", FILES)
def test_the_same_archive_has_the_same_ids_and_no_two_alike(platform: str) -> None:
    ids = [item.id for item in read(platform)[0]]
    assert ids == [item.id for item in read(platform)[0]]
    assert len(set(ids)) == len(ids)


@pytest.mark.parametrize("platform", FILES)
def test_tables_in_a_folder_are_found(platform: str) -> None:
    inside = {f"My export/{name}": text for name, text in FILES[platform].items()}
    assert read(platform, inside)[0] == read(platform)[0]


def test_a_row_longer_than_any_field_may_be_is_a_problem() -> None:
    posts = f"id,body\np1,{'x' * (csv.field_size_limit() + 1)}\np2,short\n"
    items, problems = read("reddit", {"posts.csv": posts, "comments.csv": "id,body\n"})
    assert [item.id for item in items] == ["post-p2"]
    assert [problem.item_id for problem in problems] == ["posts.csv:1"]


@pytest.mark.parametrize(
    ("platform", "data", "code", "said"),
    [
        ("myspace", b"PK\x03\x04", "UNSUPPORTED", "LinkedIn"),
        ("reddit", b"", "EMPTY", "empty"),
        ("reddit", b"id,body\n", "MISLABELLED", "not a zip"),
        ("reddit", b"PK\x03\x04cut", "DAMAGED", "damaged"),
        ("reddit", archive("twitter"), "MISLABELLED", "looks like one of X"),
        ("twitter", archive("linkedin"), "MISLABELLED", "looks like one of LinkedIn"),
        ("reddit", archive("linkedin"), "MISLABELLED", "looks like one of LinkedIn"),
        ("linkedin", archive("reddit"), "MISLABELLED", "looks like one of Reddit"),
        ("linkedin", zipped({"all.zip": archive("linkedin")}), "NESTED_ZIP", "unpack the outer one"),
        ("linkedin", zipped({"a.txt": "x"}), "MISLABELLED", "not LinkedIn's"),
    ],
)
def test_what_is_no_archive_says_why(platform: str, data: bytes, code: str, said: str) -> None:
    failure = refused(platform, data)
    assert failure.code == code
    assert said in failure.message


def test_a_table_that_is_too_large_is_a_problem_of_its_own() -> None:
    found = list(read_archive("reddit", zipped({"posts.csv": " " * 100_000_000})))
    assert [one.code for one in found if isinstance(one, Problem)] == ["TOO_LARGE"]


@pytest.mark.parametrize(
    ("written", "read_as"),
    [
        ("2024-05-01 10:00:00 UTC", datetime(2024, 5, 1, 10, tzinfo=UTC)),
        ("2024-05-01T10:00:00.500Z", datetime(2024, 5, 1, 10, 0, 0, 500_000, tzinfo=UTC)),
        ("2024-05-01T12:00:00+02:00", datetime(2024, 5, 1, 10, tzinfo=UTC)),
        ("Wed May 01 10:00:00 +0000 2024", datetime(2024, 5, 1, 10, tzinfo=UTC)),
        ("1714557600000", datetime(2024, 5, 1, 10, tzinfo=UTC)),
        ("Wed Foo 01 10:00:00 +0000 2024", None),
        ("0001-01-01T00:00:00+14:00", None),
        ("99999999999999", None),
        ("", None),
    ],
)
def test_times_are_read_as_utc(written: str, read_as: datetime | None) -> None:
    assert when(written) == read_as


@st.composite
def mutated(draw: st.DrawFn) -> tuple[str, bytes]:
    """An archive of which one file was changed, cut, or replaced; or the zip itself was."""
    platform = draw(st.sampled_from(sorted(FILES)))
    files: dict[str, str | bytes] = dict(FILES[platform])
    name = draw(st.sampled_from(sorted(files)))
    data = bytearray(str(files[name]).encode())
    for _ in range(draw(st.integers(1, 5))):
        at = draw(st.integers(0, len(data)))
        odd = st.sampled_from(
            [b'"', b"\\", b"\n", b",", b"\0", b"\xff", b"[" * 3000, b"{", b"null", b"1e999", b"\\ud800"]
        )
        match draw(st.integers(0, 3)):
            case 0:
                data[at:at] = draw(odd)
            case 1:
                del data[at : at + draw(st.integers(1, 50))]
            case 2:
                data[at:at] = draw(st.binary(max_size=8))
            case _:
                data[at : at + 1] = draw(odd)
    files[name] = bytes(data)
    whole = bytearray(zipped(files))
    if draw(st.booleans()):
        whole[draw(st.integers(0, len(whole) - 1))] = draw(st.integers(0, 255))
    return platform, bytes(whole)


@settings(max_examples=400, deadline=None)
@given(mutated())
def test_a_mutated_archive_gives_items_problems_or_is_refused(case: tuple[str, bytes]) -> None:
    try:
        found = list(read_archive(*case))
    except Unreadable as failure:
        assert failure.code in CODES
        return
    for one in found:
        if isinstance(one, Problem):
            assert one.code in {"BAD_ROW", *CODES}
        else:
            assert one.text.strip()
            stored = "".join((one.id, one.text, one.title or "", one.url or ""))
            assert stored.encode()
            assert "\0" not in stored
            assert one.said_at is None or one.said_at.tzinfo is UTC
