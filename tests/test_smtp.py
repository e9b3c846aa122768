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
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from itertools import repeat
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

from fanout_briefs.adapters import _message, smtp
from fanout_briefs.adapters._message import compose, one_address, sender_address
from fanout_briefs.adapters.smtp import OutcomeUnknown, SmtpMailer
from fanout_briefs.adapters.sqlite import SqliteStorage
from fanout_briefs.briefs import Briefs
from fanout_briefs.errors import NotSent, PermanentFailure, RetryLater
from fanout_briefs.model import (
    JobStatus,
    Mail,
    Preference,
    Project,
    ProjectBrief,
    Recipient,
    SectionRequest,
    Window,
)
from fanout_briefs.ports import Mailer
from mails import a_mail

KEY = "daily_brief:2026-03-09:ada:1"
SENDER = "Morning briefs <briefs@example.com>"
PASSWORD = "correct horse battery staple"
STALL, DROP = "<stall>", "<drop>"
SHORT = timedelta(seconds=3)
"""Waited for in full; a busy machine has to come, within it, as far as where the server stalls."""

Act = str | Iterable[str] | Callable[[str | None], "str | None"]


class Protocol(SMTP):
    """aiosmtpd's own protocol, which at some stages does as a script says instead."""

    def __init__(self, server: Server, **options: Any) -> None:
        self.server = server
        super().__init__(Handler(self), hostname="mx.example.net", loop=server.loop, **options)

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

    async def push(self, status: Any) -> None:
        await super().push(f"{status}{self.server.injected}" if str(status).startswith("220 Ready") else status)


class Handler:
    """What becomes of a mail: ``arrived`` once its last dot has come, ``accepted`` if the answer was to be yes."""

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol
        self._server = protocol.server

    async def handle_RCPT(  # noqa: N802
        self, server: object, session: object, envelope: Envelope, address: str, options: object
    ) -> str:
        envelope.rcpt_tos.append(address)
        return self._server.taken

    async def handle_DATA(self, server: object, session: object, envelope: Envelope) -> str:  # noqa: N802
        self._server.arrived.append(envelope)
        if await self._protocol.obey("CONTENT", envelope.rcpt_tos[0]):
            return "250 which nobody is to read"
        self._server.accepted.append(envelope)
        return "250 2.0.0 Ok: queued as 4F2"


class Server:
    """A server on a free port of loopback, in a thread and an event loop of its own."""

    def __init__(
        self,
        script: Mapping[str, Act] | None = None,
        *,
        implicit_tls: ssl.SSLContext | None = None,
        wait_for: int = 1,
        injected: str = "",
        taken: str = "250 OK",
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
        self.taken = taken
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
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)  # Or the system takes megabytes by itself.
        listener.bind(("127.0.0.1", 0))
        starting = self.loop.create_server(make, sock=listener, ssl=self._implicit_tls)
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


def certify(ca: trustme.CA, name: str, context: ssl.SSLContext) -> None:
    certificate: Any = ca.issue_cert(name)  # Its type depends on a library that need not be there.
    certificate.configure_cert(context)


@pytest.fixture(scope="module")
def server_tls(ca: trustme.CA) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certify(ca, "127.0.0.1", context)
    return context


@pytest.fixture(scope="module")
def trusting(ca: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context()
    cast("Any", ca).configure_trust(context)
    return context


def a_mailer(server: Server | int, **options: Any) -> SmtpMailer:
    port = server if isinstance(server, int) else server.port
    given: dict[str, Any] = {"sender": SENDER, "security": "none", "timeout": timedelta(seconds=20)}
    return SmtpMailer("127.0.0.1", port, **(given | options))


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

    return [
        file for frame in cast("Any", sys)._current_frames().values() for file in files(frame) if file == smtp.__file__
    ]


def nobody(mail: Mail) -> None:
    return None


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
        server = serve({"QUIT": "500 no"}, taken="251 will forward")
        assert "queued" in (await a_mailer(server).send(a_mail(), KEY)).reference

    async def test_one_click_unsubscribing_is_two_headers_on_a_line_each(self, serve: Serve) -> None:
        server = serve()
        token = "eyJ1c2VyIjoiYWRhIn0." * 20
        url = f"https://example.com/unsubscribe?u={token}&b=daily;x='(1)'#top"

        def unsubscribe(mail: Mail) -> str | None:
            return {"ada": url}.get(mail.user_id)

        await a_mailer(server, unsubscribe=unsubscribe).send(a_mail(), KEY)

        (envelope,) = server.accepted
        lines = content_of(envelope).decode().split("\r\n")
        assert f"List-Unsubscribe: <{url}>" in lines  # Raw: encoded words would not be decoded here.
        assert "List-Unsubscribe-Post: List-Unsubscribe=One-Click" in lines

    async def test_without_a_url_there_are_no_such_headers(self, serve: Serve) -> None:
        server = serve()
        await a_mailer(server, unsubscribe=nobody).send(a_mail(), KEY)
        assert not [name for name in server.message() if name.startswith("List-")]

    async def test_the_answer_is_kept_in_one_short_line(self, serve: Serve) -> None:
        server = serve({"CONTENT": "250-first \x1b[31m\r\n250-" + "x" * 1000 + "\r\n250 last"})
        reference = (await a_mailer(server).send(a_mail(), KEY)).reference
        assert reference.isprintable()
        assert "250 first [31m xxx" in reference
        assert len(reference) < 400

    @pytest.mark.parametrize(
        ("name", "shown"),
        [("brain.example.org", "brain.example.org"), ("brain", "[127.0.0.1]"), ("a b.c", "[127.0.0.1]")],
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
            ("RCPT", "554 5.7.1 relay access denied", False),
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
        def rcpt(arg: str | None) -> str | None:
            return "550 5.1.1 gone" if "gone@" in str(arg) else None

        server = serve({"RCPT": rcpt})
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


EARLY = [
    ("CONNECT", [STALL], "the greeting"),
    ("EHLO", [STALL], "EHLO"),
    ("MAIL", [STALL], "MAIL FROM"),
    ("RCPT", [STALL], "RCPT TO ada@example.com"),
    ("DATA", [STALL], "DATA"),
    ("DATA", ["354 go", STALL], "the content"),
]
MUCH = a_mail(text="0123456789" * 600_000)


class TestLost:
    @pytest.mark.parametrize(
        ("stage", "acts", "named"), [(stage, [*acts[:-1], DROP], named) for stage, acts, named in EARLY]
    )
    async def test_a_connection_dropped_before_the_last_dot_sent_nothing(
        self, stage: str, acts: Act, named: str, serve: Serve
    ) -> None:
        server = serve({stage: acts})
        error = await refusal(a_mailer(server), MUCH)
        assert not error.permanent
        assert f"broke off at {named} (" in str(error)
        assert server.stalled.is_set()
        assert not server.arrived

    async def test_a_server_that_stalls_before_the_last_dot_was_sent_nothing(self, serve: Serve) -> None:
        async def attempt(stage: str, acts: Act, named: str) -> None:
            server = serve({stage: acts})
            error = await refusal(a_mailer(server, timeout=timedelta(seconds=8)), MUCH)  # All stages at once.
            assert not error.permanent
            assert f"left {named} unanswered, and the 8 s of timeout are over" in str(error)
            assert server.stalled.is_set()
            assert not server.arrived

        async with anyio.create_task_group() as group:
            for stage, acts, named in EARLY:
                group.start_soon(attempt, stage, acts, named)
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
        mailer = a_mailer(server, timeout=SHORT if act == STALL else timedelta(seconds=20))
        error = await refusal(mailer, kind=OutcomeUnknown)
        assert said in str(error)
        assert "may have delivered it" in str(error)
        assert len(server.arrived) == 1

    async def test_a_goodbye_that_is_not_answered_changes_nothing_and_is_not_waited_for_long(
        self, serve: Serve
    ) -> None:
        begun = time.monotonic()
        for act in (STALL, DROP):
            receipt = await a_mailer(serve({"QUIT": act}), timeout=timedelta(seconds=60)).send(a_mail(), KEY)
            assert "queued" in receipt.reference
        assert time.monotonic() - begun < 30

    async def test_an_answer_that_never_ends_is_cut_by_the_deadline(self, serve: Serve) -> None:
        # smtplib's own timeout begins anew with every byte, and would wait for ever.
        server = serve({"EHLO": repeat("250-more")})
        begun = time.monotonic()
        error = await refusal(a_mailer(server, timeout=SHORT))
        assert "left EHLO unanswered" in str(error)
        assert time.monotonic() - begun < 8

    def test_not_one_more_byte_leaves_after_the_deadline(self) -> None:
        over = smtp._Server(  # pyright: ignore[reportPrivateUsage]
            host="mail.example.com",
            port=25,
            security="none",
            username=None,
            password=None,
            seconds=0.0,
            tls_context=None,
            local_hostname=None,
        )
        conversation = smtp._Conversation(over)  # pyright: ignore[reportPrivateUsage]
        ours, theirs = socket.socketpair()
        with ours, theirs:
            theirs.setblocking(False)
            conversation.sock = ours
            with pytest.raises(TimeoutError):
                conversation.send(b"DATA\r\n")
            with pytest.raises(NotSent, match="the mail was not sent"):
                conversation.end_mail("ada@example.com")  # Without the dot, it is no mail yet.
            with pytest.raises(BlockingIOError):
                theirs.recv(1)

    async def test_a_server_that_reads_nothing_is_cut_by_the_deadline(
        self, server_tls: ssl.SSLContext, trusting: ssl.SSLContext, serve: Serve
    ) -> None:
        server = serve({"DATA": ["354 go", STALL]}, implicit_tls=server_tls)
        mailer = a_mailer(server, security="tls", tls_context=trusting, timeout=SHORT)
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

    async def test_each_address_of_a_host_is_tried_and_none_takes_the_others_time(
        self, serve: Serve, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        server = serve()
        ends = [("192.0.2.1", 25), ("127.0.0.1", a_closed_port()), ("127.0.0.1", server.port), ("192.0.2.2", 25)]
        asked: list[object] = []
        tried: list[object] = []
        real = socket.socket.connect

        def addresses(host: str, port: int, **options: object) -> list[tuple[Any, ...]]:
            asked.append((host, port))
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", end) for end in ends]

        def connect(sock: socket.socket, address: Any) -> None:
            tried.append(address)
            if address[0] == "192.0.2.1":
                assert 0 < (sock.gettimeout() or 0) <= 20 / len(ends)
                raise TimeoutError
            real(sock, address)

        mailer = SmtpMailer("mail.example.com", sender=SENDER, security="none", timeout=timedelta(seconds=20))
        with monkeypatch.context() as patch:
            patch.setattr(socket, "getaddrinfo", addresses)
            patch.setattr(socket.socket, "connect", connect)
            await mailer.send(a_mail(), KEY)
        assert asked == [("mail.example.com", 25)]
        assert tried == ends[:3]
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
        mailer = a_mailer(server, security="starttls", tls_context=trusting, username="briefs", password=PASSWORD)
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
        certify(ca, "mail.example.com", other)
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
        secret = "wrong horse"
        script: dict[str, Act] = {} if act is None else {"AUTH": (act or "").format}
        server = serve(script, auth_require_tls=False, auth_callback=auth, auth_exclude_mechanism=["LOGIN"])
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


class TestUnsubscribe:
    @pytest.mark.parametrize(
        "url",
        [
            "http://example.com/u",
            "mailto:leave@example.com",
            "https://",
            "https:///u",
            "https://example.com/a b",
            "https://example.com/\r\nBcc: evil@example.com",
            "https://example.com/u\n",
            "https://example.com/>,<https://evil.example.com",
            "https://user@example.com/u",
            "https://example.com/" + "a" * 900,
            "https://example.com/ü",
            b"https://example.com/u",
            7,
            LookupError("no such user"),
        ],
    )
    async def test_what_makes_no_header_is_refused_before_anything_is_sent(self, url: Any, serve: Serve) -> None:
        def unsubscribe(mail: Mail) -> Any:
            if isinstance(url, Exception):
                raise url
            return url

        server = serve()
        error = await refusal(a_mailer(server, unsubscribe=unsubscribe))
        assert not error.permanent
        assert "the mail to user 'ada' could not be written: " in str(error)
        assert server.log == []
        if not isinstance(url, Exception):
            with pytest.raises(ValueError, match=r"unsubscribe=.*must be an https URL"):
                compose(a_mail(), KEY, sender_address(SENDER), unsubscribe=url)

    @pytest.mark.parametrize("error", [RetryLater(5), PermanentFailure("gone"), NotSent("not now")])
    async def test_it_may_say_itself_that_a_mail_is_not_to_be_sent(self, error: Exception, serve: Serve) -> None:
        def unsubscribe(mail: Mail) -> str:
            raise error

        server = serve()
        assert await refusal(a_mailer(server, unsubscribe=unsubscribe), kind=type(error)) is error
        assert server.log == []

    def test_it_is_called_in_a_thread(self, serve: Serve) -> None:
        threads: list[threading.Thread] = []

        def unsubscribe(mail: Mail) -> None:
            threads.append(threading.current_thread())

        mailer = a_mailer(serve(), unsubscribe=unsubscribe)
        anyio.run(mailer.send, a_mail(), KEY)
        assert threads != [threading.current_thread()]


HEADERS = ["Content-Type", "Date", "From", "MIME-Version", "Message-ID", "Subject", "To"]
CLICK = ["List-Unsubscribe", "List-Unsubscribe-Post"]


@pytest.fixture(scope="module")
def lasting_server() -> Iterator[Server]:
    with Server(enable_SMTPUTF8=True) as server:
        yield server


def sent_through(server: Server, mail: Mail, key: str = KEY, **options: Any) -> Envelope:
    anyio.run(a_mailer(server, **options).send, mail, key)
    return server.accepted[-1]


def always_the_same(mail: Mail) -> str:
    return "https://example.com/u"


def q_encoded(text: bytes) -> str:
    return f"=?utf-8?q?{''.join(f'={byte:02X}' for byte in text)}?="


hostile = st.text(max_size=200) | st.binary(max_size=50).map(q_encoded)


class TestHostile:
    @given(name=hostile, subject=hostile, key=st.text(max_size=100), text=st.text(max_size=300))
    @example(name="Very " * 15 + ", evil@example.com", subject="", key=KEY, text="")
    @example(name="Ünï " * 20 + ", <evil@e.com>", subject="", key=KEY, text="")
    @example(name="=?utf-8?q?evil=40e.com=2C?=", subject="=?utf-8?q?=0D=0ABcc:_e@e?=", key=KEY, text="")
    @example(name="=??Q?=2E", subject="=??Q?=2E", key=KEY, text="")
    @example(name="A\r\nBcc: evil@example.com", subject="B\r\nBcc: evil@example.com", key="\r\nBcc: e@e", text=".")
    @example(
        name="A\u2028Bcc: e@e", subject="B\x85Bcc: e@e\r\n\r\n<script>", key="\ud800", text=".\r\n.\r\nMAIL FROM:<e@e>"
    )
    @example(name="", subject="", key="", text="\r\n.\r\n" * 20 + "\n.\n" + "\r.\r" + "\ud800")
    def test_no_name_subject_key_or_text_adds_a_header_a_recipient_or_a_mail(
        self, name: str, subject: str, key: str, text: str, lasting_server: Server
    ) -> None:
        before = len(lasting_server.arrived)
        mail = a_mail(name=name, subject=subject, text=text)
        envelope = sent_through(lasting_server, mail, key, unsubscribe=always_the_same)

        assert len(lasting_server.arrived) == before + 1
        assert envelope.rcpt_tos == ["ada@example.com"]
        assert not envelope.smtp_utf8
        content = content_of(envelope)
        assert content.isascii()
        assert not set(re.sub(rb"\r\n", b"", content)) & set(b"\r\n\0")
        message = parsed(envelope)
        assert sorted(message.keys()) == sorted(HEADERS + CLICK)
        assert [address.addr_spec for address in message["To"].addresses] == ["ada@example.com"]
        assert [address.addr_spec for address in message["From"].addresses] == ["briefs@example.com"]
        assert message["Message-ID"].endswith("@example.com>")
        if subject.isprintable() and len(subject) < 50 and "  " not in subject:
            assert message["Subject"] == subject.strip()
        assert [part.get_content_type() for part in message.iter_parts()] == ["text/plain", "text/html"]
        assert body(message, "html") == mail.rendered.html + "\n" or body(message, "html") == mail.rendered.html

    @given(
        address=st.text('ab@.<>"\\ ,;:()[]\r\n\0\u2028ü\x1b', max_size=30)
        | st.text('a> \\"\n', max_size=9).map('"{}"@b.c'.format)
    )
    @example(address="ada@[x> NOTIFY=NEVER]")
    @example(address='"a> SIZE=1"@example.com')
    @example(address='"' + "a b" * 30 + '"@example.com')
    @example(address="ada@example.com> SIZE=1\r\nRCPT TO:<evil@example.com")
    def test_an_address_is_refused_for_good_or_is_one_recipient(self, address: str, lasting_server: Server) -> None:
        before = len(lasting_server.log)
        try:
            envelope = sent_through(lasting_server, a_mail(address=address))
        except NotSent as error:
            assert error.permanent  # noqa: PT017 - both ends are good ones.
            return
        assert len(envelope.rcpt_tos) == 1
        (line,) = [line for line in lasting_server.log[before:] if line.startswith("RCPT")]
        assert re.fullmatch(r'RCPT TO:<("(\\.|[^"\\])+"|[^\s<>"]+)@[^\s<>"]+>', line)
        (shown,) = parsed(envelope)["To"].addresses
        assert line == f"RCPT TO:<{shown.addr_spec}>"

    def test_only_the_html_that_was_rendered_is_sent(self, lasting_server: Server) -> None:
        mail = a_mail(name="<script>alert(1)</script>", subject="<b>", html="<p>&lt;b&gt;</p>\n")
        message = parsed(sent_through(lasting_server, mail))
        assert body(message, "html") == "<p>&lt;b&gt;</p>\n"
        assert message["Subject"] == "<b>"

    @pytest.mark.parametrize(
        "address",
        [
            "",
            "ada",
            "ada@",
            "ada@example.com, e@e.com",
            "Ada <ada@example.com>",
            "\u2028ü@b.c",
            '"' + "a b" * 30 + '"@b.c',
        ],
    )
    async def test_an_address_that_is_none_is_refused_before_anything_is_sent(self, address: str, serve: Serve) -> None:
        server = serve()
        error = await refusal(a_mailer(server), a_mail(address=address))
        assert error.permanent
        assert repr(address) in str(error)
        assert server.log == []

    def test_a_header_that_comes_in_by_a_way_nobody_thought_of_is_noticed(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def injecting(subject: str) -> bytes:
            return b"Subject: x\r\nBcc: evil@example.com\r\n"

        monkeypatch.setattr(_message, "_encoded_subject", injecting)
        with pytest.raises(NotSent, match="cannot be written into a header") as caught:
            compose(a_mail(subject="=?"), KEY, sender_address(SENDER))
        assert caught.value.permanent

    @pytest.mark.parametrize("name", [f'"{"Very " * 15}, evil"', q_encoded(b"x\r\nBcc: e@e")])
    def test_a_sender_name_that_would_read_as_something_else_is_refused(self, name: str) -> None:
        with pytest.raises(
            ValueError, match=r"sender=.*: (the name cannot be written|.*CR or LF|.*must be one address)"
        ):
            SmtpMailer("mail.example.com", sender=f"{name} <briefs@example.com>")


class TestInternationalAddresses:
    def test_one_goes_out_as_utf_8_where_that_is_offered(self, lasting_server: Server) -> None:
        mail = a_mail("jürgen@münchen.example", "Jürgen, " * 20, "Grüße " * 40, text="Grüße\n")
        envelope = sent_through(lasting_server, mail)
        assert envelope.smtp_utf8
        assert envelope.rcpt_tos == ["jürgen@xn--mnchen-3ya.example"]
        message = parsed(envelope)
        (address,) = message["To"].addresses
        assert address.addr_spec == "jürgen@xn--mnchen-3ya.example"
        assert "".join(message["Subject"].split()) == "Grüße" * 40
        assert body(message, "plain") == "Grüße\n"
        assert sorted(message.keys()) == HEADERS
        assert max(map(len, content_of(envelope).split(b"\r\n"))) <= 998

    def test_an_ordinary_one_does_not_ask_for_it(self, lasting_server: Server) -> None:
        envelope = sent_through(lasting_server, a_mail("ada@münchen.example", "Jürgen", "Grüße"))
        assert not envelope.smtp_utf8
        assert envelope.rcpt_tos == ["ada@xn--mnchen-3ya.example"]
        assert content_of(envelope).isascii()

    async def test_one_is_refused_for_good_where_it_is_not_offered(self, serve: Serve) -> None:
        server = serve()
        error = await refusal(a_mailer(server), a_mail("jürgen@example.com"))
        assert error.permanent
        assert "address='jürgen@example.com': needs SMTPUTF8, which 127.0.0.1:" in str(error)
        assert server.stages == ["CONNECT", "EHLO", "QUIT"]

    @given(name=hostile, subject=hostile)
    @example(name="=?utf-8?q?x=0D=0ABcc:_e@e?=", subject="=?utf-8?q?x=0D=0ABcc:_e@e?=")
    @example(name="Ünï " * 20 + ", <evil@e.com>", subject="ü" * 2000)
    @example(name="A\u2028Bcc: e@e", subject="B\x85Bcc: e@e")
    @example(name='x"y, <evil@e.com>ü' * 8, subject="")
    def test_hostile_names_and_subjects_stay_text_under_utf_8_too(
        self, name: str, subject: str, lasting_server: Server
    ) -> None:
        envelope = sent_through(lasting_server, a_mail("jürgen@example.com", name, subject))
        message = parsed(envelope)
        assert sorted(message.keys()) == HEADERS
        assert [address.addr_spec for address in message["To"].addresses] == ["jürgen@example.com"]
        assert max(map(len, content_of(envelope).split(b"\r\n"))) <= 998


class TestManyAtOnce:
    async def test_no_more_than_connections_are_open_at_once(self, serve: Serve) -> None:
        server = serve(wait_for=3)
        mailer = a_mailer(server, connections=3)
        async with anyio.create_task_group() as group:
            for number in range(12):
                group.start_soon(mailer.send, a_mail(f"u{number}@example.com"), str(number))
        assert server.most_inside == 3
        assert Counter(envelope.rcpt_tos[0] for envelope in server.accepted) == {
            f"u{number}@example.com": 1 for number in range(12)
        }

    async def test_a_call_cancelled_while_the_server_stalls_ends_by_its_timeout(self, serve: Serve) -> None:
        server = serve({"RCPT": STALL})
        ended: list[NotSent] = []

        async def attempt() -> None:
            ended.append(await refusal(a_mailer(server, timeout=SHORT)))

        begun = time.monotonic()
        async with anyio.create_task_group() as group:
            group.start_soon(attempt)
            await anyio.to_thread.run_sync(server.stalled.wait)
            group.cancel_scope.cancel()
        assert time.monotonic() - begun < 15
        assert "left RCPT TO ada@example.com unanswered" in str(ended[0])  # The verdict is not lost.
        assert not threads_still_sending()

    async def test_a_call_cancelled_while_it_waits_for_its_turn_never_connects(self, serve: Serve) -> None:
        server = serve({"RCPT": STALL})
        mailer = a_mailer(server, connections=1, timeout=SHORT)
        async with anyio.create_task_group() as group:
            group.start_soon(refusal, mailer)
            await anyio.to_thread.run_sync(server.stalled.wait)
            with anyio.move_on_after(0):
                await mailer.send(a_mail(), KEY)
            assert server.stages.count("CONNECT") == 1

    async def test_a_mail_that_gets_no_turn_was_surely_not_sent(self, serve: Serve) -> None:
        server = serve({"RCPT": STALL})
        mailer = a_mailer(server, connections=1, timeout=SHORT)
        errors: list[str] = []

        async def attempt() -> None:
            error = await refusal(mailer)
            assert not error.permanent
            errors.append(str(error))

        async with anyio.create_task_group() as group:
            for _ in range(4):
                group.start_soon(attempt)
        # The second may get its turn right when the first gives up; then the others wait behind the second.
        taken = [error for error in errors if f"all 1 connections to 127.0.0.1:{server.port} were taken" in error]
        assert len(taken) >= 2
        assert server.stages.count("CONNECT") == 4 - len(taken)

    async def test_a_mail_accepted_while_its_call_is_cancelled_is_known_to_be_sent(self, serve: Serve) -> None:
        has_mail, may_answer = threading.Event(), threading.Event()

        def hold(arg: str | None) -> None:
            has_mail.set()
            may_answer.wait()

        server = serve({"CONTENT": hold})
        receipts: list[str] = []

        async def attempt() -> None:
            receipts.append((await a_mailer(server).send(a_mail(), KEY)).reference)

        async with anyio.create_task_group() as group:
            group.start_soon(attempt)
            await anyio.to_thread.run_sync(has_mail.wait)
            group.cancel_scope.cancel()
            may_answer.set()
        assert "queued" in receipts[0]

    def test_one_mailer_serves_one_event_loop_after_another(self, serve: Serve) -> None:
        server = serve()
        mailer = a_mailer(server, connections=1)
        for backend in ("asyncio", "trio", "asyncio"):
            anyio.run(mailer.send, a_mail(), KEY, backend=backend)
        assert len(server.accepted) == 3


class TestConstructing:
    @pytest.mark.parametrize(
        ("options", "named"),
        [
            ({"host": ""}, "host=''"),
            ({"host": "mail.example.com:587"}, "host='mail.example.com:587': must be a name or an IP address, with"),
            ({"host": "smtp://mail.example.com"}, "host="),
            ({"host": "mail example"}, "host="),
            ({"host": "mail.example.com\n"}, "host="),
            ({"host": ".example.com"}, "host="),
            ({"host": "a..b"}, "host='a..b': makes no host name"),
            ({"host": 7}, "host=7"),
            ({"port": 0}, "port=0"),
            ({"port": 65536}, "port=65536"),
            ({"port": True}, "port=True"),
            ({"port": "587"}, "port='587'"),
            ({"sender": "briefs"}, "sender='briefs': must be one address"),
            ({"sender": "jürgen@example.com"}, "sender="),
            ({"sender": None}, "sender=None: must be a string"),
            ({"security": "ssl"}, "security='ssl': must be 'starttls', 'tls' or 'none'"),
            ({"username": "u"}, "username and password: must be given both or neither"),
            ({"password": "p"}, "username and password: must be given both or neither"),
            ({"username": "ü", "password": "p"}, "username: must be printable ASCII"),
            ({"username": "u", "password": ""}, "password: must be printable ASCII"),
            ({"username": "u", "password": 7}, "password: must be printable ASCII"),
            ({"timeout": timedelta(0)}, "timeout=datetime.timedelta(0)"),
            ({"timeout": timedelta(days=2)}, "timeout="),
            ({"timeout": 30}, "timeout=30"),
            ({"unsubscribe": "https://example.com"}, "unsubscribe="),
            ({"unsubscribe": anyio.sleep}, "unsubscribe="),
            ({"tls_context": "yes"}, "tls_context='yes'"),
            ({"tls_context": ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)}, "tls_context="),
            ({"tls_context": ssl.create_default_context(), "security": "none"}, "security='none' uses no TLS"),
            ({"local_hostname": "a b"}, "local_hostname='a b'"),
            ({"local_hostname": 7}, "local_hostname=7"),
            ({"connections": 0}, "connections=0"),
            ({"connections": True}, "connections=True"),
        ],
    )
    def test_a_bad_argument_is_named(self, options: dict[str, Any], named: str) -> None:
        given: dict[str, Any] = {"host": "mail.example.com", "sender": SENDER}
        with pytest.raises(ValueError, match=re.escape(named)):
            SmtpMailer(**(given | options))

    def test_all_bad_arguments_are_named_at_once_and_the_password_is_not_shown(self) -> None:
        secret = "sécret"
        with pytest.raises(ValueError) as caught:
            SmtpMailer("", 0, sender="", security=cast("Any", 1), password=secret, timeout=timedelta(-1), connections=0)
        for name in (
            "host",
            "port",
            "sender",
            "security",
            "username and password",
            "password",
            "timeout",
            "connections",
        ):
            assert name in str(caught.value)
        assert secret not in "".join(traceback.format_exception(caught.value))

    @pytest.mark.parametrize(("security", "port"), [("starttls", 587), ("tls", 465), ("none", 25)])
    def test_each_security_has_its_port_and_the_repr_no_password(self, security: Any, port: int) -> None:
        mailer = SmtpMailer("::1", sender=SENDER, security=security, username="briefs", password=PASSWORD)
        assert repr(mailer) == f"SmtpMailer('::1', {port}, sender={SENDER!r}, security={security!r})"

    async def test_an_ipv6_server_is_named_in_brackets(self, monkeypatch: pytest.MonkeyPatch) -> None:
        def nobody(*args: object, **options: object) -> list[tuple[Any, ...]]:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", a_closed_port()))]

        monkeypatch.setattr(socket, "getaddrinfo", nobody)
        assert "[::1]:587 refuses" in str(await refusal(SmtpMailer("::1", sender=SENDER)))

    def test_every_parameter_is_documented(self) -> None:
        doc = inspect.getdoc(SmtpMailer.__init__) or ""
        assert not [name for name in list(inspect.signature(SmtpMailer).parameters) if f"\n    {name}: " not in doc]

    def test_a_plain_address_without_a_name_can_be_a_sender(self) -> None:
        assert one_address("briefs@example.com") == sender_address("briefs@example.com")


class Host:
    """A host application: one project a user, and an address for everybody."""

    async def of(self, user_id: str, window: Window) -> Sequence[Project]:
        return [Project("p", "Project")]

    async def generate(self, request: SectionRequest) -> ProjectBrief | None:
        return ProjectBrief(f"News for {request.user_id}")

    async def get(self, user_ids: Collection[str]) -> Mapping[str, Recipient]:
        return {user_id: Recipient(f"{user_id}@example.com", f"{user_id}, <evil@example.com>") for user_id in user_ids}


async def test_through_everything_each_mail_is_sent_once_or_named(serve: Serve, tmp_path: Path) -> None:
    nine = datetime(2026, 3, 9, 9, tzinfo=UTC)
    greylisted = Counter[str]()
    asked = Counter[str]()

    def rcpt(arg: str | None) -> str | None:
        user = str(arg).partition("<")[2].partition("@")[0]
        asked[user] += 1
        if user == "gone":
            return "550 5.1.1 no such user"
        if user.startswith("grey") and not greylisted[user]:
            greylisted[user] += 1
            return "451 4.7.1 come back later"
        return None

    def content(arg: str | None) -> str | None:
        user = str(arg).partition("@")[0]
        return {"lost": DROP, "spam": "554 5.6.0 no"}.get(user)

    server = serve({"RCPT": rcpt, "CONTENT": content})
    users = ["ada", "bo", "cy", "gone", "grey1", "grey2", "lost", "spam"]
    host = Host()
    async with SqliteStorage(tmp_path / "briefs.db") as storage:
        await storage.preferences.put([Preference(user_id=user) for user in users])
        briefs = Briefs(
            storage,
            projects=host,
            generator=host,
            recipients=host,
            mailer=a_mailer(server),
            look_back=timedelta(hours=1),
        )
        await briefs.plan(nine)
        first = await briefs.run_once(nine)
        assert first.mails == {JobStatus.COMPLETED: 3, JobStatus.FAILED: 2, JobStatus.UNKNOWN: 1}
        assert first.retrying == 2

        again = await briefs.run_once(nine + timedelta(hours=1))
        assert again.mails == {JobStatus.COMPLETED: 2}
        await briefs.plan(nine + timedelta(hours=1))
        assert not (await briefs.run_once(nine + timedelta(hours=2))).mails

        date_ = nine.date()
        details = {user: (await briefs.explain(user, date_, now=nine + timedelta(hours=2))) for user in users}

    arrived = Counter(envelope.rcpt_tos[0].partition("@")[0] for envelope in server.arrived)
    assert arrived == dict.fromkeys(set(users) - {"gone"}, 1)
    accepted = {envelope.rcpt_tos[0].partition("@")[0] for envelope in server.accepted}
    assert accepted == {"ada", "bo", "cy", "grey1", "grey2"}
    assert asked == {user: 2 if user.startswith("grey") else 1 for user in users}
    # Sent and unknown are the mails that the server had and did not refuse, and no other.
    assert len(accepted) + first.mails[JobStatus.UNKNOWN] == sum(arrived.values()) - arrived["spam"]
    assert "4F2" in str(details["ada"])
    assert "broke off at the end of the mail to lost@example.com" in str(details["lost"])
