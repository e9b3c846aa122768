"""Sending the mail of a saved brief: at most once unless the mailer promises more, and to where people are now."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import anyio
import pytest
from anyio.lowlevel import checkpoint
from attrs import evolve

from fanout_briefs.adapters.eml import EmlMailer
from fanout_briefs.delivery import SENDING, Delivery, mail_job, mail_type
from fanout_briefs.encoding import decode_mail, encode_mail
from fanout_briefs.errors import NotSent, PermanentFailure, RetryLater
from fanout_briefs.model import (
    Brief,
    Claim,
    Finish,
    Job,
    JobStatus,
    Mail,
    Occurrence,
    Progress,
    Receipt,
    Recipient,
    Rendered,
    Section,
    SkipReason,
    Window,
)
from virtual_time import in_virtual_time

NINE = datetime(2026, 3, 9, 9, tzinfo=UTC)
WINDOW = Window(NINE - timedelta(days=1), NINE - timedelta(minutes=15))
BRIEF_JOB = Job(
    type="daily_brief",
    user_id="ada",
    occurrence=Occurrence(date(2026, 3, 9), NINE),
    run_at=NINE - timedelta(minutes=10),
    window=WINDOW,
    epoch=3,
)
RENDERED = Rendered("Daily brief", "Two commits.", "<p>Two commits.</p>")
BRIEF = Brief(
    type="daily_brief",
    user_id="ada",
    occurrence=BRIEF_JOB.occurrence,
    window=WINDOW,
    epoch=3,
    sections=[Section(project_id="1", title="One", text="Two commits.")],
    rendered=RENDERED,
)
KEY = "daily_brief:2026-03-09:ada:3"
ADA = Recipient("ada@example.com", "Ada Okafor")


class Addresses:
    """A host's address book; an exception in place of a recipient is raised."""

    def __init__(self, **known: Recipient | Exception) -> None:
        self.asked: list[Collection[str]] = []
        self._known = known

    async def get(self, user_ids: Collection[str]) -> Mapping[str, Recipient]:
        await checkpoint()
        self.asked.append(user_ids)
        found: dict[str, Recipient] = {}
        for user_id in user_ids:
            entry = self._known.get(user_id)
            if isinstance(entry, Exception):
                raise entry
            if entry is not None:
                found[user_id] = entry
        return found


class Provider:
    """A mail provider that takes mail, or fails."""

    def __init__(self, fails: Exception | None = None, *, idempotent: bool = False) -> None:
        self.idempotent = idempotent
        self.sent: list[tuple[Mail, str]] = []
        self._fails = fails

    async def send(self, mail: Mail, key: str) -> Receipt:
        await checkpoint()
        self.sent.append((mail, key))
        if self._fails is not None:
            raise self._fails
        return Receipt("message-1")


def a_claim(*, step: str | None = None, payload: bytes | None = encode_mail(RENDERED, KEY), **job: Any) -> Claim:
    progress = None if step is None else Progress(step)
    mail = evolve(mail_job(BRIEF_JOB, BRIEF).job, status=JobStatus.PROCESSING, progress=progress, **job)
    return Claim(job=mail, token=1, until=NINE + timedelta(minutes=1), payload=payload, progress=progress)


async def nothing_to_record() -> None:
    await checkpoint()


async def delivered(
    mailer: Any,
    recipients: Addresses | None = None,
    *,
    claim: Claim | None = None,
    record: Callable[[], Awaitable[None]] = nothing_to_record,
) -> Finish:
    delivery = Delivery(recipients or Addresses(ada=ADA), mailer, timedelta(seconds=60))
    return await delivery.deliver(claim or a_claim(), record)


def test_a_mail_job_is_due_at_delivery_and_carries_the_rendered_bytes() -> None:
    follow_up = mail_job(BRIEF_JOB, BRIEF)

    assert follow_up.job == Job(
        type="generate_brief_email.daily_brief",
        user_id="ada",
        occurrence=BRIEF_JOB.occurrence,
        run_at=NINE,
        window=WINDOW,
        epoch=3,
    )
    assert decode_mail(follow_up.payload) == (RENDERED, KEY)


class Sealed:
    def __str__(self) -> str:
        raise ValueError("not for you")


@pytest.mark.parametrize(
    ("receipt", "reference"),
    [
        (Receipt(UUID(int=7)), str(UUID(int=7))),  # type: ignore[arg-type]  # as many SDKs give
        (Receipt(7), "7"),  # type: ignore[arg-type]
        (Receipt(Sealed()), None),  # type: ignore[arg-type]
        (None, None),
    ],
    ids=["uuid", "number", "unreadable", "none"],
)
async def test_whatever_a_mailer_returns_the_mail_is_accepted(receipt: Any, reference: str | None) -> None:
    class Loose(Provider):
        async def send(self, mail: Mail, key: str) -> Any:
            return receipt

    finish = await delivered(Loose())
    assert (finish.status, finish.reason) == (JobStatus.COMPLETED, reference)


def test_each_kind_of_brief_has_mails_of_its_own() -> None:
    assert mail_type("daily_brief") != mail_type("weekly_brief")
    assert ":" not in mail_type("daily_brief")


class TestSending:
    async def test_a_mail_goes_to_where_the_recipient_is_now_with_the_bytes_of_then(self) -> None:
        mailer, recipients = Provider(), Addresses(ada=ADA)

        finish = await delivered(mailer, recipients)

        assert finish == Finish(status=JobStatus.COMPLETED, reason="message-1")
        assert [mail for mail, _ in mailer.sent] == [Mail(ADA, RENDERED, "ada", BRIEF_JOB.occurrence)]
        assert recipients.asked == [["ada"]]

    async def test_the_key_is_the_briefs_own_and_the_same_for_every_attempt(self) -> None:
        mailer = Provider()

        for attempt in (1, 2, 3):
            await delivered(mailer, claim=a_claim(attempts=attempt))

        assert [key for _, key in mailer.sent] == [f"{BRIEF_JOB.dedup_key}:3"] * 3

    async def test_another_epoch_of_the_brief_is_another_mail(self) -> None:
        mailer = Provider()
        again = mail_job(evolve(BRIEF_JOB, epoch=4), evolve(BRIEF, epoch=4))

        await delivered(mailer, claim=evolve(a_claim(), payload=again.payload))

        assert [key for _, key in mailer.sent] == [f"{BRIEF_JOB.dedup_key}:4"]

    async def test_a_mail_that_is_tried_again_by_hand_keeps_its_key(self) -> None:
        mailer = Provider()

        await delivered(mailer, claim=a_claim(epoch=7))

        assert [key for _, key in mailer.sent] == [KEY]

    async def test_sending_is_recorded_before_the_mailer_is_called(self) -> None:
        mailer, order = Provider(), list[int]()

        async def record() -> None:
            await checkpoint()
            order.append(len(mailer.sent))

        await delivered(mailer, record=record)

        assert order == [0]

    async def test_where_that_cannot_be_recorded_nothing_is_sent(self) -> None:
        mailer = Provider()

        async def record() -> None:
            await checkpoint()
            raise LookupError("the claim is lost")

        with pytest.raises(LookupError):
            await delivered(mailer, record=record)

        assert mailer.sent == []

    async def test_the_eml_mailer_names_the_file_by_the_key(self, tmp_path: Path) -> None:
        finish = await delivered(EmlMailer(tmp_path / "outbox"))

        (path,) = (tmp_path / "outbox").iterdir()
        assert path.name == "daily_brief:2026-03-09:ada:3.eml"
        assert finish.reason == str(path)
        assert b"Two commits." in path.read_bytes()


class TestNotSending:
    @pytest.mark.parametrize(
        ("recipients", "code"),
        [
            (Addresses(), SkipReason.UNREACHABLE),
            (Addresses(ada=evolve(ADA, opted_out=True)), SkipReason.OPTED_OUT),
        ],
        ids=["unreachable", "opted-out"],
    )
    async def test_who_cannot_or_will_not_get_it_is_skipped(self, recipients: Addresses, code: SkipReason) -> None:
        mailer, recorded = Provider(), list[str]()

        async def record() -> None:
            await checkpoint()
            recorded.append(SENDING)

        assert await delivered(mailer, recipients, record=record) == Finish(status=JobStatus.SKIPPED, code=code)
        assert (mailer.sent, recorded) == ([], [])

    async def test_an_address_book_that_fails_leaves_the_mail_for_later(self) -> None:
        mailer, error = Provider(), OSError("the users table is locked")

        with pytest.raises(OSError, match="locked") as failure:
            await delivered(mailer, Addresses(ada=error))

        assert failure.value is error
        assert mailer.sent == []

    async def test_a_job_without_a_mail_fails(self) -> None:
        mailer = Provider()

        finish = await delivered(mailer, claim=a_claim(payload=None))

        assert finish == Finish(status=JobStatus.FAILED, error="the outbox holds no rendered mail for this job")
        assert mailer.sent == []

    async def test_a_damaged_mail_is_not_sent(self) -> None:
        mailer = Provider()

        with pytest.raises(ValueError, match="is no mail"):
            await delivered(mailer, claim=a_claim(payload=b"\x00damaged"))

        assert mailer.sent == []


@pytest.mark.parametrize("idempotent", [False, True])
class TestFailing:
    @pytest.mark.parametrize("error", [NotSent("mailbox full"), RetryLater(60, "rate limited")])
    async def test_what_has_surely_not_left_is_tried_again(self, error: Exception, idempotent: bool) -> None:
        with pytest.raises(type(error)) as failure:
            await delivered(Provider(error, idempotent=idempotent))

        assert failure.value is error

    @pytest.mark.parametrize("error", [NotSent("no such address", permanent=True), PermanentFailure("blocked")])
    async def test_what_can_never_leave_fails(self, error: Exception, idempotent: bool) -> None:
        finish = await delivered(Provider(error, idempotent=idempotent))

        assert finish == Finish(status=JobStatus.FAILED, error=str(error))

    async def test_any_other_error_leaves_it_unknown_unless_sending_twice_delivers_once(self, idempotent: bool) -> None:
        error = ConnectionError("reset by peer")
        mailer = Provider(error, idempotent=idempotent)

        if idempotent:
            with pytest.raises(ConnectionError) as failure:
                await delivered(mailer)
            assert failure.value is error
        else:
            finish = await delivered(mailer)
            reason = "the mailer failed half-way: ConnectionError('reset by peer')"
            assert finish == Finish(status=JobStatus.UNKNOWN, error=reason)

    @pytest.mark.parametrize("step", [None, "saving", SENDING])
    def test_only_what_is_being_sent_may_have_left(self, step: str | None, idempotent: bool) -> None:
        delivery = Delivery(Addresses(), Provider(idempotent=idempotent), timedelta(seconds=60))

        assert delivery.is_unsettled(a_claim(step=step).job) is (step == SENDING and not idempotent)


class TestTime:
    """Neither a mailer nor a host's table may keep a mail for ever."""

    @pytest.fixture(params=["asyncio", "trio"])
    def anyio_backend(self, request: pytest.FixtureRequest) -> Any:
        return in_virtual_time(request.param)

    async def test_a_mailer_that_never_answers_leaves_the_mail_unknown(self) -> None:
        class Silent(Provider):
            async def send(self, mail: Mail, key: str) -> Receipt:
                await anyio.sleep_forever()
                raise AssertionError

        finish = await delivered(Silent())

        assert finish.status is JobStatus.UNKNOWN
        assert finish.error is not None
        assert "sending took longer than 60 s" in finish.error

    async def test_an_idempotent_one_is_asked_again(self) -> None:
        class Silent(Provider):
            async def send(self, mail: Mail, key: str) -> Receipt:
                await anyio.sleep_forever()
                raise AssertionError

        with pytest.raises(TimeoutError, match="sending took longer than 60 s"):
            await delivered(Silent(idempotent=True))

    async def test_recipients_that_never_answer_leave_the_mail_unsent(self) -> None:
        class Silent(Addresses):
            async def get(self, user_ids: Collection[str]) -> Mapping[str, Recipient]:
                await anyio.sleep_forever()
                raise AssertionError

        mailer = Provider()
        with pytest.raises(TimeoutError, match="reading the recipient took longer than 60 s"):
            await delivered(mailer, Silent())
        assert mailer.sent == []


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (None, "recipients.get gave NoneType instead of a mapping of Recipient by user"),
        ([ADA], "recipients.get gave list instead of a mapping of Recipient by user"),
        ({"ada": "ada@example.com"}, "recipients.get gave str instead of Recipient"),
    ],
)
async def test_recipients_that_are_none_are_told_by_their_port_and_nothing_is_sent(answer: object, told: str) -> None:
    class Wrong(Addresses):
        async def get(self, user_ids: Collection[str]) -> Any:
            return answer

    mailer = Provider()
    with pytest.raises(TypeError, match=told):
        await delivered(mailer, Wrong())
    assert mailer.sent == []


async def test_a_mailer_that_returns_nothing_has_accepted_the_mail() -> None:
    class Forgetful(Provider):
        async def send(self, mail: Mail, key: str) -> Any:
            await super().send(mail, key)

    finish = await delivered(Forgetful())

    assert (finish.status, finish.reason) == (JobStatus.COMPLETED, None)
