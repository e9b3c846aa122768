"""One click unsubscribes the one who clicked: through a real mail server, a real application, and nothing else."""

from __future__ import annotations

import email
import email.policy
import re
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, cast

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanout_briefs import Briefs, JobStatus, PermanentFailure, Preference, Project, ProjectBrief, SectionRequest
from fanout_briefs.adapters.memory import MemoryStorage
from fanout_briefs.adapters.smtp import SmtpMailer
from fanout_briefs.adapters.unsubscribe import UnsubscribeLinks, UnsubscribePage
from fanout_briefs.model import Page, Recipient, SkipReason, Window
from mail_server import MailServer
from mails import a_mail

URL = "https://example.org/unsubscribe"
SECRET = "correct horse battery staple"
AT = datetime(2026, 11, 23, 9, tzinfo=UTC)


class Users:
    """A host whose users are all on, until they unsubscribe."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self.off: list[str] = []

    async def unsubscribe(self, user_id: str) -> None:
        self.off.append(user_id)

    async def page(self, cursor: str | None, limit: int) -> Page[Preference]:
        return Page([self._preference(name) for name in self.names])

    async def get(self, user_ids: Collection[str]) -> Mapping[str, Preference]:
        return {name: self._preference(name) for name in user_ids if name in self.names}

    def _preference(self, name: str) -> Preference:
        return Preference(user_id=name, is_active=name not in self.off)

    async def of(self, user_id: str, window: Window) -> Sequence[Project]:
        return [Project("1", "Apollo")]

    async def generate(self, request: SectionRequest) -> ProjectBrief:
        return ProjectBrief("All is well.")


class Addresses:
    async def get(self, user_ids: Collection[str]) -> Mapping[str, Recipient]:
        return {name: Recipient(f"{name}@example.org") for name in user_ids}


@pytest.fixture
def links() -> UnsubscribeLinks:
    return UnsubscribeLinks(URL, SECRET)


@pytest.fixture
def users() -> Users:
    return Users("ana", "bo")


@pytest.fixture
async def web(links: UnsubscribeLinks, users: Users) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(UnsubscribePage(links, users.unsubscribe))
    async with httpx.AsyncClient(transport=transport) as client:
        yield client


def links_of(raw: bytes) -> str:
    mail = email.message_from_bytes(raw, policy=email.policy.default)
    assert mail["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    (link,) = re.findall(r"^<(.+)>$", mail["List-Unsubscribe"])
    return str(link)


async def test_one_click_in_a_mail_stops_the_next_mail_that_is_queued_already(
    links: UnsubscribeLinks, users: Users, web: httpx.AsyncClient
) -> None:
    with MailServer() as server:
        mailer = SmtpMailer("127.0.0.1", server.port, sender="b@example.org", security="none", unsubscribe=links)
        async with Briefs(
            MemoryStorage(),
            preferences=users,
            projects=users,
            generator=users,
            recipients=Addresses(),
            mailer=mailer,
        ) as briefs:
            await briefs.plan(AT)
            await briefs.run_once(AT)
            (link,) = [links_of(raw) for raw in server.mails if b"To: ana@" in raw]
            tomorrow = AT.replace(day=24)
            await briefs.plan(tomorrow)
            await briefs.run_once(tomorrow.replace(hour=8, minute=59))  # made, and its mail is queued
            answer = await web.post(link, data={"List-Unsubscribe": "One-Click"})
            report = await briefs.run_once(tomorrow)
            told = await briefs.explain("ana", on=tomorrow.date(), now=tomorrow)
    assert answer.status_code == 200
    assert users.off == ["ana"]
    assert report.mails == {JobStatus.COMPLETED: 1, JobStatus.CANCELLED: 1}
    assert told.mail is not None
    assert told.mail.code is SkipReason.SUPERSEDED


@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_what_scanners_open_changes_nothing(
    method: str, links: UnsubscribeLinks, users: Users, web: httpx.AsyncClient
) -> None:
    answer = await web.request(method, links.url("ana"))
    assert answer.status_code == 200
    assert users.off == []
    assert ('<form method="post">' in answer.text) is (method == "GET")
    assert int(answer.headers["content-length"]) > 0


async def test_the_button_of_the_page_does_what_the_click_in_the_mail_does(
    links: UnsubscribeLinks, users: Users, web: httpx.AsyncClient
) -> None:
    answers = [await web.post(links.url("ana")), await web.post(links.url("ana"))]
    assert [answer.status_code for answer in answers] == [200, 200]
    assert "no more of these mails" in answers[0].text
    assert users.off == ["ana", "ana"]


@pytest.mark.parametrize("token", ["", "ana", "ImFuYSI", "ImFuYSI.AAAA", "%00", "ÿ", "a" * 5000])
@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_link_that_we_did_not_make_is_not_found(
    method: str, token: str, users: Users, web: httpx.AsyncClient
) -> None:
    answer = await web.request(method, f"{URL}/{token}")
    assert answer.status_code == 404
    assert users.off == []


async def test_other_methods_are_told_which_there_are(links: UnsubscribeLinks, web: httpx.AsyncClient) -> None:
    answer = await web.delete(links.url("ana"))
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, POST")


async def test_a_host_that_cannot_unsubscribe_right_now_is_not_answered_for(links: UnsubscribeLinks) -> None:
    async def fail(user_id: str) -> None:
        raise ConnectionError(f"no database for {user_id}")

    async with httpx.AsyncClient(transport=httpx.ASGITransport(UnsubscribePage(links, fail))) as web:
        with pytest.raises(ConnectionError, match="no database for ana"):
            await web.post(links.url("ana"))


async def test_what_the_host_shows_is_text(links: UnsubscribeLinks, users: Users) -> None:
    page = UnsubscribePage(links, users.unsubscribe, question="<b>Sure?</b>", button="<i>", done="<script>")
    async with httpx.AsyncClient(transport=httpx.ASGITransport(page)) as web:
        shown = (await web.get(links.url("ana"))).text + (await web.post(links.url("ana"))).text
    assert "&lt;b&gt;Sure?&lt;/b&gt;" in shown
    assert not {"<b>", "<i>", "<script>"} & set(re.findall(r"<\w+>", shown))


def test_a_page_names_every_bad_argument(links: UnsubscribeLinks) -> None:
    def at_once(user_id: str) -> None:
        raise AssertionError(user_id)

    wrong: Any = at_once
    with pytest.raises(
        ValueError, match=r"^links='x': must be .*; unsubscribe=.*must be async def.*; question=7: must be"
    ):
        UnsubscribePage(*cast("Any", ("x", wrong)), question=cast("Any", 7))
    with pytest.raises(ValueError, match=r"^unsubscribe=None: must be async def"):
        UnsubscribePage(links, cast("Any", None))


async def test_a_lambda_may_call_what_is_async(links: UnsubscribeLinks, users: Users) -> None:
    page = UnsubscribePage(links, lambda user_id: users.unsubscribe(user_id.upper()))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(page)) as web:
        await web.post(links.url("ana"))
    assert users.off == ["ANA"]


def test_what_is_no_token_names_nobody(links: UnsubscribeLinks) -> None:
    assert [links.user_of(token) for token in ("", ".", "a.b", "a\ud800.b", "é.é")] == [None] * 5


async def test_what_is_no_http_is_refused(links: UnsubscribeLinks, users: Users) -> None:
    async def never(*_: Any) -> Any:
        raise AssertionError

    with pytest.raises(NotImplementedError, match="'websocket'"):
        await UnsubscribePage(links, users.unsubscribe)({"type": "websocket"}, never, never)


@given(st.text(min_size=1, max_size=60))
def test_a_link_names_its_user_whatever_the_id(user_id: str) -> None:
    links = UnsubscribeLinks(URL, SECRET)
    link = links.url(user_id)
    assert links.user_of(link.rpartition("/")[2]) == user_id
    assert link == links(a_mail(user_id=user_id))
    assert re.fullmatch(r"https://example\.org/unsubscribe/[\w.-]+", link, re.ASCII)


@given(st.data())
def test_a_link_with_one_character_changed_names_nobody(data: st.DataObject) -> None:
    links = UnsubscribeLinks(URL, SECRET)
    token = links.url("ana").rpartition("/")[2]
    place = data.draw(st.integers(0, len(token) - 2))  # The last one holds bits that base64 does not use.
    other = data.draw(st.sampled_from("abcXYZ019-_.").filter(lambda each: each != token[place]))
    assert links.user_of(token[:place] + other + token[place + 1 :]) is None


def test_a_link_of_another_secret_or_another_brief_names_nobody(links: UnsubscribeLinks) -> None:
    for other in (UnsubscribeLinks(URL, SECRET * 2), UnsubscribeLinks(URL, SECRET, name="weekly")):
        assert links.user_of(other.url("ana").rpartition("/")[2]) is None


def test_a_new_secret_signs_and_the_old_links_still_work(links: UnsubscribeLinks) -> None:
    both = UnsubscribeLinks(URL, [SECRET, "a new secret of ours"])
    new = UnsubscribeLinks(URL, "a new secret of ours")
    assert both.user_of(links.url("ana").rpartition("/")[2]) == "ana"
    assert both.url("ana") == new.url("ana") != links.url("ana")


async def test_an_id_that_no_header_can_hold_fails_its_mail_for_good(links: UnsubscribeLinks) -> None:
    longest = "".join(chr(0x10000 + number * number * 7919 % 60_000) for number in range(255))
    with pytest.raises(PermanentFailure, match="makes an unsubscribe link of"):
        links.url(longest)
    with MailServer() as server:
        mailer = SmtpMailer("127.0.0.1", server.port, sender="b@example.org", security="none", unsubscribe=links)
        with pytest.raises(PermanentFailure):
            await mailer.send(a_mail(user_id=longest), "key")
        assert server.accepted == []


@pytest.mark.parametrize(
    "url",
    [
        "http://example.org/u",
        "https://",
        "https://example.org/u?a=1",
        "https://example.org/u#a",
        "https://exämple.org",
        "https://example.org/a b",
        "https://example.org/a\n",
        "https://example.org/<u>",
        "https://example.org/u|x",
        "https://us:pw@example.org/u",
        "https://[example.org/u",
        f"https://example.org/{'u' * 900}",
    ],
)
def test_urls_that_no_mail_program_would_use_and_no_header_holds_are_refused(url: str) -> None:
    with pytest.raises(ValueError, match="must be an https URL"):
        UnsubscribeLinks(url, SECRET)


def test_all_bad_arguments_are_told_at_once() -> None:
    wrong: Any = 7
    with pytest.raises(
        ValueError, match=r"^url=7: must be .*; secret: must be .* \(not so: number 2\).*; name=7: must be"
    ):
        UnsubscribeLinks(wrong, [SECRET, wrong], name=wrong)


@pytest.mark.parametrize("secret", ["", "short", [], [SECRET, "short"], None, 7, SECRET.encode()])
def test_secrets_that_are_none_are_refused_and_not_shown(secret: Any) -> None:
    with pytest.raises(ValueError, match="at least 16 characters") as refused:
        UnsubscribeLinks(URL, secret)
    assert "short" not in str(refused.value)
    assert SECRET not in repr(UnsubscribeLinks(URL, SECRET))
