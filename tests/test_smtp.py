"""The SMTP mailer, against a real server on loopback: what it says of a mail is what became of it."""

from __future__ import annotations

import asyncio
import base64
import email
import email.policy
import functools
import inspect
import re
import socket
import ssl
import sys
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, date, datetime, timedelta
from email.message import EmailMessage
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self, cast

import anyio
import anyio.to_thread
import pytest
import trustme
from aiosmtpd.smtp import SMTP, Envelope
from hypothesis import example, given
from hypothesis import strategies as st

from fanout_briefs.adapters import smtp
from fanout_briefs.adapters._message import compose, one_address, sender_address
from fanout_briefs.adapters.smtp import OutcomeUnknown, SmtpMailer
from fanout_briefs.adapters.sqlite import SqliteStorage
from fanout_briefs.briefs import Briefs
from fanout_briefs.errors import NotSent, PermanentFailure, RetryLater
from fanout_briefs.model import (
    JobStatus,
    Mail,
    Occurrence,
    Preference,
    Project,
    ProjectBrief,
    Recipient,
    Rendered,
    SectionRequest,
    Window,
)
from fanout_briefs.ports import Mailer

KEY = "daily_brief:2026-03-09:ada:1"
SENDER = "Morning briefs <briefs@example.com>"
PASSWORD = "correct horse battery staple"  # noqa: S105 - only this file's servers know it.
STALL, DROP = "<stall>", "<drop>"
SHORT = timedelta(seconds=0.3)

Act = str | Sequence[str] | Callable[[str | None], "str | None"]


class Protocol(SMTP):
    """aiosmtpd's own protocol, which at some stages does as a script says instead."""

    def __init__(self, server: Server, **options: Any) -> None:
        self.server = server
        super().__init__(self, hostname="mx.example.net", loop=server.loop, **options)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.server.transports.append(cast("asyncio.Transport", transport))
        super().connection_made(transport)

    async def obey(self, stage: str, arg: str | None = None) -> bool:
        """Do what the script says at this stage; answer whether it said anything."""
        self.server.log.append(stage if arg is None else f"{stage} {arg}")
        act = self.server.script.get(stage, ())
        said = act(arg) if callable(act) else act
        acts = [said] if isinstance(said, str) else said or ()
        for each in acts:
            if each == DROP:
                cast("Any", self.transport).abort()
            if each in {STALL, DROP}:
                self.server.stalled.set()
                await asyncio.Event().wait()  # Ends when the connection does.
            await self.push(each)
        return bool(acts)

    async def _handle_client(self) -> None:
        if await self.obey("CONNECT"):
            cast("Any", self.transport).close()
        else:
            await super()._handle_client()

    async def smtp_EHLO(self, hostname: str) -> None:  # noqa: N802
        if not await self.obey("EHLO", hostname):
            await super().smtp_EHLO(hostname)

    async def smtp_HELO(self, hostname: str) -> None:  # noqa: N802
        if not await self.obey("HELO", hostname):
            await super().smtp_HELO(hostname)

    async def smtp_STARTTLS(self, arg: str) -> None:  # noqa: N802
        if not await self.obey("STARTTLS"):
            await super().smtp_STARTTLS(arg)

    async def smtp_AUTH(self, arg: str) -> None:  # noqa: N802
        if not await self.obey("AUTH", arg):
            await super().smtp_AUTH(arg)

    async def smtp_MAIL(self, arg: str | None) -> None:  # noqa: N802
        self.server.inside += 1
        self.server.most_inside = max(self.server.most_inside, self.server.inside)
        if self.server.inside == self.server.wait_for:
            self.server.enough_inside.set()
        await self.server.enough_inside.wait()
        if not await self.obey("MAIL", arg):
            await super().smtp_MAIL(arg)

    async def smtp_RCPT(self, arg: str | None) -> None:  # noqa: N802
        if not await self.obey("RCPT", arg):
            await super().smtp_RCPT(arg)

    async def smtp_DATA(self, arg: str | None) -> None:  # noqa: N802
        if not await self.obey("DATA"):
            await super().smtp_DATA(cast("str", arg))

    async def smtp_QUIT(self, arg: str) -> None:  # noqa: N802
        self.server.inside -= 1
        if not await self.obey("QUIT"):
            await super().smtp_QUIT(arg)

    async def handle_DATA(self, server: object, session: object, envelope: Envelope) -> str:  # noqa: N802
        """Keep a mail whose last dot has come, also where the reply to it will not be yes."""
        self.server.arrived.append(envelope)
        if await self.obey("CONTENT", envelope.rcpt_tos[0]):
            return "250 and more, which nobody is to read"
        self.server.accepted.append(envelope)
        return "250 2.0.0 Ok: queued as 4F2"

    async def push(self, status: Any) -> None:
        await super().push(f"{status}{self.server.injected}" if str(status).startswith("220 Ready") else status)


class Server:
    """A server on a free port of loopback, in a thread and an event loop of its own."""

    def __init__(
        self,
        script: Mapping[str, Act] | None = None,
        *,
        implicit_tls: ssl.SSLContext | None = None,
        wait_for: int = 1,
        injected: str = "",
        **options: Any,
    ) -> None:
        self.script = script or {}
        self.log: list[str] = []
        self.arrived: list[Envelope] = []
        self.accepted: list[Envelope] = []
        self.transports: list[asyncio.Transport] = []
        self.stalled = threading.Event()
        self.inside = self.most_inside = 0
        self.wait_for = wait_for
        self.enough_inside = asyncio.Event()
        self.injected = injected
        self.loop = asyncio.new_event_loop()
        self._implicit_tls = implicit_tls
        self._options = options
        self._thread = threading.Thread(target=self._run)
        self._ready = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(self, *_: object) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join()

    @property
    def stages(self) -> list[str]:
        return [line.split()[0] for line in self.log]

    def message(self) -> EmailMessage:
        """The one mail that was accepted."""
        (envelope,) = self.accepted
        return parsed(envelope)

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        make = functools.partial(Protocol, self, **self._options)
        starting = self.loop.create_server(make, "127.0.0.1", 0, ssl=self._implicit_tls)
        server = self.loop.run_until_complete(starting)
        self.port: int = server.sockets[0].getsockname()[1]
        self._ready.set()
        self.loop.run_forever()
        server.close()
        for transport in self.transports:
            transport.abort()
        self.loop.run_until_complete(self._settle())
        self.loop.close()

    async def _settle(self) -> None:
        tasks = asyncio.all_tasks() - {cast("asyncio.Task[Any]", asyncio.current_task())}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for _ in range(3):  # Aborted transports, under TLS too, close in the loop's next turns.
            await asyncio.sleep(0)


Serve = Callable[..., Server]


@pytest.fixture
def serve() -> Iterator[Serve]:
    with ExitStack() as servers:

        def start(*args: Any, **options: Any) -> Server:
            return servers.enter_context(Server(*args, **options))

        yield start


@pytest.fixture(scope="module")
def ca() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def server_tls(ca: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    return context


@pytest.fixture(scope="module")
def trusting(ca: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    ca.configure_trust(context)
    return context


def a_mailer(server: Server | int, **options: Any) -> SmtpMailer:
    port = server if isinstance(server, int) else server.port
    given: dict[str, Any] = {"sender": SENDER, "security": "none", "timeout": timedelta(seconds=20)}
    return SmtpMailer("127.0.0.1", port, **(given | options))


def a_mail(
    address: str = "ada@example.com",
    name: str | None = "Ada Okafor",
    subject: str = "Your brief",
    text: str = "Three things happened.\n",
    html: str = "<!doctype html><p>Three things happened.</p>\n",
) -> Mail:
    return Mail(
        recipient=Recipient(address, name),
        rendered=Rendered(subject, text, html),
        user_id="ada",
        occurrence=Occurrence(date(2026, 3, 9), datetime(2026, 3, 9, 6, 30, tzinfo=UTC)),
    )


def content_of(envelope: Envelope) -> bytes:
    assert isinstance(envelope.content, bytes)
    return envelope.content


def parsed(envelope: Envelope) -> EmailMessage:
    content = content_of(envelope)
    if envelope.smtp_utf8:
        message = email.message_from_string(content.decode(), policy=email.policy.default)
    else:
        message = email.message_from_bytes(content, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    return message


def body(message: EmailMessage, kind: str) -> str:
    part = message.get_body((kind,))
    assert part is not None
    return str(part.get_content()).replace("\r\n", "\n")


async def refusal(mailer: SmtpMailer, mail: Mail | None = None, kind: type[Exception] = NotSent) -> Any:
    with pytest.raises(kind) as caught:
        await mailer.send(mail or a_mail(), KEY)
    assert type(caught.value) is kind
    return caught.value


def a_silent_port(stack: ExitStack) -> int:
    """A port where the system takes connections and nobody ever says a word."""
    listener = stack.enter_context(socket.socket())
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    return cast("int", listener.getsockname()[1])


def a_closed_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return cast("int", taken.getsockname()[1])


def threads_still_sending() -> list[str]:
    def files(frame: Any) -> Iterator[str]:
        while frame is not None:
            yield frame.f_code.co_filename
            frame = frame.f_back

    return [file for frame in sys._current_frames().values() for file in files(frame) if file == smtp.__file__]


class TestAccepted:
    async def test_a_mail_arrives_as_mail_programs_read_it(self, serve: Serve) -> None:
        server = serve()
        mailer: Mailer = a_mailer(server)
        mail = a_mail(subject="Grüße, 你好", text="Grüße.\n.\n..\nFrom here\n" + "x" * 3000, html="<p>Grüße</p>")
        receipt = await mailer.send(mail, KEY)

        assert mailer.idempotent is False
        message = server.message()
        assert message["From"] == SENDER
        assert message["To"] == "Ada Okafor <ada@example.com>"
        assert message["Subject"] == "Grüße, 你好"
        assert message["Date"].datetime == datetime(2026, 3, 9, 6, 30, tzinfo=UTC)
        assert message.get_content_type() == "multipart/alternative"
        assert [part.get_content_type() for part in message.iter_parts()] == ["text/plain", "text/html"]
        assert body(message, "plain") == mail.rendered.text + "\n"
        assert body(message, "html") == "<p>Grüße</p>\n"
        assert not message.defects
        assert receipt.reference == f"{message['Message-ID']} 250 2.0.0 Ok: queued as 4F2"

    async def test_what_goes_over_the_wire_needs_no_extension(self, serve: Serve) -> None:
        server = serve({"EHLO": "500 what is that"})
        await a_mailer(server).send(a_mail(subject="Grüße " * 50, text="ü" * 5000), KEY)

        (envelope,) = server.accepted
        content = content_of(envelope)
        assert content.isascii()
        assert max(map(len, content.split(b"\r\n"))) <= 78
        assert b"\n" not in content.replace(b"\r\n", b"")
        assert b"\r" not in content.replace(b"\r\n", b"")
        assert (envelope.mail_from, envelope.rcpt_tos) == ("briefs@example.com", ["ada@example.com"])
        assert server.stages == ["CONNECT", "EHLO", "HELO", "MAIL", "RCPT", "DATA", "CONTENT", "QUIT"]

    async def test_every_attempt_is_the_same_bytes_and_every_key_has_its_own_id(self, serve: Serve) -> None:
        server = serve()
        for key in (KEY, KEY, KEY + "1"):
            await a_mailer(server).send(a_mail(), key)
        first, again, other = server.accepted
        assert content_of(first) == content_of(again)
        assert len({parsed(envelope)["Message-ID"] for envelope in (first, again, other)}) == 2

    async def test_a_server_that_forwards_has_taken_the_mail(self, serve: Serve) -> None:
        # aiosmtpd only notes a recipient that it answers itself, so this reply comes ahead of its own.
        server = serve({"MAIL": lambda arg: None, "QUIT": "500 no"})
        assert "queued" in (await a_mailer(server).send(a_mail(), KEY)).reference

    async def test_one_click_unsubscribing_is_two_headers_on_a_line_each(self, serve: Serve) -> None:
        server = serve()
        token = "eyJ1c2VyIjoiYWRhIn0." * 20
        urls = {"ada": f"https://example.com/unsubscribe?u={token}&b=daily;x='(1)'#top"}
        await a_mailer(server, unsubscribe=lambda mail: urls[mail.user_id]).send(a_mail(), KEY)

        (envelope,) = server.accepted
        lines = content_of(envelope).decode().split("\r\n")
        assert f"List-Unsubscribe: <{urls['ada']}>" in lines  # Raw: encoded words would not be decoded here.
        assert "List-Unsubscribe-Post: List-Unsubscribe=One-Click" in lines

    async def test_without_a_url_there_are_no_such_headers(self, serve: Serve) -> None:
        server = serve()
        await a_mailer(server, unsubscribe=lambda mail: None).send(a_mail(), KEY)
        assert not [name for name in server.message() if name.startswith("List-")]

    async def test_the_answer_is_kept_in_one_short_line(self, serve: Serve) -> None:
        server = serve({"CONTENT": "250-first \x1b[31m\r\n250-" + "x" * 1000 + "\r\n250 last"})
        reference = (await a_mailer(server).send(a_mail(), KEY)).reference
        assert reference.isprintable()
        assert "250 first [31m xxx" in reference
        assert len(reference) < 400

    @pytest.mark.parametrize(
        ("name", "shown"), [("brain.example.org", "brain.example.org"), ("brain", "[127.0.0.1]"), ("a b.c", "[127.0.0.1]")]
    )
    async def test_it_greets_by_its_full_name_or_its_address(
        self, name: str, shown: str, serve: Serve, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(socket, "gethostname", lambda: name)
        server = serve()
        await a_mailer(server).send(a_mail(), KEY)
        await a_mailer(server, local_hostname="given.example.org").send(a_mail(), KEY)
        assert [line for line in server.log if "EHLO" in line] == [f"EHLO {shown}", "EHLO given.example.org"]

    def test_an_ipv6_address_is_marked_as_one(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(socket, "gethostname", lambda: "brain")
        connected: Any = SimpleNamespace(getsockname=lambda: ("::1", 587, 0, 0))
        assert smtp._local_name(connected) == "[IPv6:::1]"  # pyright: ignore[reportPrivateUsage]


class TestRefused:
    @pytest.mark.parametrize(
        ("stage", "reply", "permanent"),
        [
            ("CONNECT", "554 5.3.2 not for you", False),
            ("CONNECT", "421 4.3.2 busy", False),
            ("MAIL", "550 5.7.1 not as that sender", False),
            ("MAIL", "530 5.7.0 Must issue a STARTTLS command first", False),
            ("MAIL", "451 later", False),
            ("MAIL", "garbage", False),
            ("RCPT", "550 5.1.1 no such user", True),
            ("RCPT", "553 no", True),
            ("RCPT", "530 5.7.0 Authentication required", False),
            ("RCPT", "451 4.7.1 greylisted", False),
            ("RCPT", "421 4.7.0 too fast, come back in 300 seconds", False),
            ("RCPT", "2", False),
            ("DATA", "554 no", False),
            ("DATA", "451 later", False),
            ("DATA", "250 what", False),
            ("CONTENT", "554 5.6.0 spam", True),
            ("CONTENT", "552 5.3.4 too big", True),
            ("CONTENT", "451 4.3.0 later", False),
            ("CONTENT", "421 4.3.0 going down", False),
        ],
    )
    async def test_a_mail_the_server_said_no_to_was_surely_not_sent(
        self, stage: str, reply: str, permanent: bool, serve: Serve
    ) -> None:
        server = serve({stage: reply})
        error = await refusal(a_mailer(server))
        assert error.permanent is permanent
        assert "the mail was not sent" in str(error)
        assert str(error).startswith(f"127.0.0.1:{server.port} ")
        assert reply in str(error) or reply in {"garbage", "2"}
        assert not server.accepted

    async def test_a_server_that_takes_neither_greeting_was_sent_nothing(self, serve: Serve) -> None:
        server = serve({"EHLO": "550 no", "HELO": "550 5.7.1 go away"})
        error = await refusal(a_mailer(server))
        assert not error.permanent
        assert "answered EHLO with '550 5.7.1 go away'" in str(error)

    async def test_one_bad_recipient_costs_the_others_nothing(self, serve: Serve) -> None:
        server = serve({"RCPT": lambda arg: "550 5.1.1 gone" if "gone@" in str(arg) else None})
        mailer = a_mailer(server)
        outcomes: dict[str, str] = {}

        async def send(address: str) -> None:
            try:
                await mailer.send(a_mail(address), address)
                outcomes[address] = "sent"
            except NotSent as error:
                outcomes[address] = f"refused {error.permanent} {address in str(error)}"

        async with anyio.create_task_group() as group:
            for address in ("ada@example.com", "gone@example.com", "bo@example.com"):
                group.start_soon(send, address)
        assert outcomes == {
            "ada@example.com": "sent",
            "gone@example.com": "refused True True",
            "bo@example.com": "sent",
        }

    async def test_a_line_without_end_is_no_answer(self, serve: Serve) -> None:
        error = await refusal(a_mailer(serve({"MAIL": "250 " + "x" * 10_000})))
        assert "Line too long" in str(error)


class TestLost:
    @pytest.mark.parametrize(
        ("stage", "acts", "named"),
        [
            ("CONNECT", DROP, "the greeting"),
            ("EHLO", DROP, "EHLO"),
            ("MAIL", DROP, "MAIL FROM"),
            ("RCPT", DROP, "RCPT TO ada@example.com"),
            ("DATA", DROP, "DATA"),
            ("DATA", ["354 go", DROP], "the content"),
            ("CONNECT", STALL, "the greeting"),
            ("EHLO", STALL, "EHLO"),
            ("MAIL", STALL, "MAIL FROM"),
            ("RCPT", STALL, "RCPT TO ada@example.com"),
            ("DATA", STALL, "DATA"),
            ("DATA", ["354 go", STALL], "the content"),
        ],
    )
    async def test_a_connection_lost_before_the_last_dot_sent_nothing(
        self, stage: str, acts: Act, named: str, serve: Serve
    ) -> None:
        server = serve({stage: acts})
        timeout = timedelta(seconds=1) if named == "the content" else SHORT
        error = await refusal(a_mailer(server, timeout=timeout if acts[-1] == STALL or acts == STALL else timedelta(seconds=20)), MUCH)
        assert not error.permanent
        assert named in str(error)
        assert ("left" in str(error)) == (STALL in acts)
        assert server.stalled.is_set()
        assert not server.arrived
        assert not threads_still_sending()

    @pytest.mark.parametrize(
        ("act", "said"),
        [
            (DROP, "broke off at the end of the mail to ada@example.com"),
            (STALL, "left the end of the mail to ada@example.com unanswered"),
            ("354 go on", "answered the whole mail to ada@example.com with '354 go on'"),
            ("garbage", "neither yes nor no"),
            ("999 what", "neither yes nor no"),
            ("550 " + "x" * 10_000, "Line too long"),
        ],
    )
    async def test_without_an_answer_to_the_last_dot_nobody_knows(self, act: str, said: str, serve: Serve) -> None:
        server = serve({"CONTENT": act})
        mailer = a_mailer(server, timeout=timedelta(seconds=1) if act == STALL else timedelta(seconds=20))
        error = await refusal(mailer, kind=OutcomeUnknown)
        assert said in str(error)
        assert "may have delivered it" in str(error)
        assert len(server.arrived) == 1

    async def test_a_goodbye_that_is_not_answered_changes_nothing(self, serve: Serve) -> None:
        for act in (STALL, DROP):
            server = serve({"QUIT": act})
            receipt = await a_mailer(server, timeout=timedelta(seconds=1)).send(a_mail(), KEY)
            assert "queued" in receipt.reference

    async def test_an_answer_that_never_ends_is_cut_by_the_deadline(self, serve: Serve) -> None:
        # smtplib's own timeout begins anew with every byte, and would wait for ever.
        server = serve({"EHLO": ["250-more\r\n250-and more"] * 1_000_000})
        error = await refusal(a_mailer(server, timeout=SHORT))
        assert "left EHLO unanswered" in str(error)

    async def test_a_server_that_reads_nothing_is_cut_by_the_deadline(
        self, server_tls: ssl.SSLContext, trusting: ssl.SSLContext, serve: Serve
    ) -> None:
        server = serve({"DATA": ["354 go", STALL]}, implicit_tls=server_tls)
        mailer = a_mailer(server, security="tls", tls_context=trusting, timeout=timedelta(seconds=2))
        error = await refusal(mailer, MUCH)
        assert "left the content unanswered" in str(error)
        assert server.stages[-1] == "DATA"

    async def test_a_server_that_is_not_there_was_sent_nothing(self) -> None:
        port = a_closed_port()
        error = await refusal(a_mailer(port))
        assert not error.permanent
        assert f"127.0.0.1:{port} refuses connections" in str(error)

    async def test_a_name_that_nobody_knows_was_sent_nothing(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def unknown(*args: object, **options: object) -> Any:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

        monkeypatch.setattr(socket, "getaddrinfo", unknown)
        error = await refusal(SmtpMailer("mail.invalid", sender=SENDER))
        assert not error.permanent
        assert "the host 'mail.invalid' could not be found (Name or service not known)" in str(error)

    async def test_each_address_of_a_host_is_tried(self, serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
        with ExitStack() as stack:
            server = serve()
            full = a_silent_port(stack)
            asked: list[object] = []

            def three(host: str, port: int, **options: object) -> list[tuple[Any, ...]]:
                asked.append((host, port))
                ends = [("127.0.0.1", a_closed_port()), ("127.0.0.1", server.port), ("127.0.0.1", full)]
                return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", end) for end in ends]

            monkeypatch.setattr(socket, "getaddrinfo", three)
            await SmtpMailer("mail.example.com", sender=SENDER, security="none").send(a_mail(), KEY)
        assert asked == [("mail.example.com", 25)]
        assert len(server.accepted) == 1


class TestTls:
    async def test_starttls_is_agreed_before_anything_is_said(
        self, server_tls: ssl.SSLContext, trusting: ssl.SSLContext, serve: Serve
    ) -> None:
        server = serve(tls_context=server_tls, require_starttls=True)
        await a_mailer(server, security="starttls", tls_context=trusting).send(a_mail(), KEY)
        assert server.stages == ["CONNECT", "EHLO", "STARTTLS", "EHLO", "MAIL", "RCPT", "DATA", "CONTENT", "QUIT"]

    async def test_tls_from_the_first_byte(
        self, server_tls: ssl.SSLContext, trusting: ssl.SSLContext, serve: Serve
    ) -> None:
        server = serve(implicit_tls=server_tls)
        await a_mailer(server, security="tls", tls_context=trusting).send(a_mail(text="x" * 100_000), KEY)
        assert body(server.message(), "plain").strip() == "x" * 100_000

    async def test_plain_text_injected_before_tls_is_never_read(
        self, server_tls: ssl.SSLContext, trusting: ssl.SSLContext, serve: Serve
    ) -> None:
        # CVE-2021-38084 and its kin: a reply that somebody in the middle put behind the one to STARTTLS.
        server = serve(tls_context=server_tls, injected="\r\n250-AUTH PLAIN\r\n250 injected")
        mailer = a_mailer(
            server, security="starttls", tls_context=trusting, username="briefs", password=PASSWORD
        )
        error = await refusal(mailer)
        assert "refused the login" in str(error)  # It read the reply that came under TLS, and offers AUTH LOGIN too.
        assert [line for line in server.log if line.startswith("AUTH")] != []

    @pytest.mark.parametrize("security", ["starttls", "tls"])
    async def test_a_certificate_nobody_vouches_for_is_refused_and_not_for_good(
        self, security: str, server_tls: ssl.SSLContext, serve: Serve
    ) -> None:
        server = serve(**{"tls_context" if security == "starttls" else "implicit_tls": server_tls})
        error = await refusal(a_mailer(server, security=security))
        assert not error.permanent
        assert "is not trusted" in str(error)
        assert "tls_context" in str(error)
        assert "MAIL" not in server.stages

    async def test_a_certificate_for_another_name_is_refused(
        self, ca: trustme.CA, trusting: ssl.SSLContext, serve: Serve
    ) -> None:
        other = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert("mail.example.com").configure_cert(other)
        server = serve(tls_context=other)
        error = await refusal(a_mailer(server, security="starttls", tls_context=trusting))
        assert "127.0.0.1" in str(error)
        assert "not trusted" in str(error)

    async def test_where_starttls_is_not_offered_nothing_is_sent(self, serve: Serve) -> None:
        server = serve(auth_require_tls=False)
        mailer = a_mailer(server, security="starttls", username="briefs", password=PASSWORD)
        error = await refusal(mailer)
        assert not error.permanent
        assert "does not offer STARTTLS, and nothing is sent in plain text; give security='tls'" in str(error)
        assert server.stages == ["CONNECT", "EHLO", "QUIT"]

    @pytest.mark.parametrize("act", ["454 4.7.0 not now", STALL, DROP])
    async def test_where_starttls_fails_nothing_is_sent(
        self, act: str, server_tls: ssl.SSLContext, trusting: ssl.SSLContext, serve: Serve
    ) -> None:
        server = serve({"STARTTLS": act}, tls_context=server_tls)
        timeout = SHORT if act == STALL else timedelta(seconds=20)
        error = await refusal(a_mailer(server, security="starttls", tls_context=trusting, timeout=timeout))
        assert not error.permanent
        assert "STARTTLS" in str(error)
        assert set(server.stages) <= {"CONNECT", "EHLO", "STARTTLS", "QUIT"}

    async def test_a_handshake_that_is_not_answered_ends(self, trusting: ssl.SSLContext) -> None:
        with ExitStack() as stack:
            port = a_silent_port(stack)
            error = await refusal(a_mailer(port, security="tls", tls_context=trusting, timeout=SHORT))
        assert "left the TLS handshake unanswered" in str(error)

    async def test_tls_spoken_to_a_plain_port_says_what_to_look_at(
        self, trusting: ssl.SSLContext, serve: Serve
    ) -> None:
        server = serve()
        error = await refusal(a_mailer(server, security="tls", tls_context=trusting))
        assert not error.permanent
        assert f"see whether port={server.port} and security='tls' belong together" in str(error)


def auth(mechanism: str, login: bytes, password: bytes) -> bool:
    return (login, password) == (b"briefs", PASSWORD.encode())


class TestLogin:
    async def test_a_good_password_lets_the_mail_through(self, serve: Serve) -> None:
        server = serve(auth_require_tls=False, auth_callback=auth)
        await a_mailer(server, username="briefs", password=PASSWORD).send(a_mail(), KEY)
        assert "AUTH" in server.stages
        assert len(server.accepted) == 1

    @pytest.mark.parametrize("act", [None, "535 5.7.8 Error: {}", "500 unrecognised: AUTH {}", "454 4.7.0 not now {}"])
    async def test_a_bad_password_is_not_the_recipients_fault_and_is_not_shown(
        self, act: str | None, serve: Serve
    ) -> None:
        secret = "wrong horse"  # noqa: S105
        script: dict[str, Act] = {} if act is None else {"AUTH": lambda arg: cast("str", act).format(arg)}
        server = serve(script, auth_require_tls=False, auth_callback=auth)
        mailer = a_mailer(server, username="briefs", password=secret)
        error = await refusal(mailer)
        assert not error.permanent
        assert "refused the login of 'briefs' (" in str(error)
        shown = "".join(traceback.format_exception(error)) + repr(mailer) + repr(error) + repr(vars(mailer))
        for form in (secret, *map(in_base64, (secret, f"\0briefs\0{secret}"))):
            assert form not in shown
        assert "MAIL" not in server.stages

    async def test_where_no_login_is_offered_nothing_is_sent(self, serve: Serve) -> None:
        for options in ({}, {"auth_require_tls": False, "auth_exclude_mechanism": ["PLAIN", "LOGIN"]}):
            server = serve(**options)
            error = await refusal(a_mailer(server, username="briefs", password=PASSWORD))
            assert not error.permanent
            assert "offers no login that can be used (AUTH: none)" in str(error)
            assert "MAIL" not in server.stages

    @pytest.mark.parametrize("act", [STALL, DROP])
    async def test_a_connection_lost_while_logging_in_sent_nothing(self, act: str, serve: Serve) -> None:
        server = serve({"AUTH": act}, auth_require_tls=False, auth_callback=auth)
        timeout = SHORT if act == STALL else timedelta(seconds=20)
        error = await refusal(a_mailer(server, username="briefs", password=PASSWORD, timeout=timeout))
        assert "AUTH" in str(error)

    async def test_a_challenge_that_makes_no_sense_is_no_login(self, serve: Serve) -> None:
        server = serve({"AUTH": "334 x"}, auth_require_tls=False, auth_callback=auth)
        error = await refusal(a_mailer(server, username="briefs", password=PASSWORD))
        assert "offers no login that can be used (AUTH: LOGIN PLAIN" in str(error)


def in_base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


MUCH = a_mail(text="0123456789" * 600_000)
