"""A mailer over SMTP: it reports each mail as accepted, as certainly not sent, or as unknown.

The line between the last two is the dot that ends a mail (RFC 5321, section 4.1.1.4). Until the dot leaves, the mail
has not been sent, whatever happens. After that, only the server's reply tells; without it, the mail ends ``unknown``.
"""

from __future__ import annotations

import contextlib
import io
import re
import smtplib
import socket
import ssl
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from email.headerregistry import Address
from typing import Literal, cast, get_args

import anyio
from anyio import to_thread
from anyio.lowlevel import RunVar
from attrs import field, frozen

from fanout_briefs.adapters._message import (
    Unsubscribe,
    message_id,
    one_line,
    recipient_address,
    sender_address,
    unsubscribe_problems,
    written,
)
from fanout_briefs.arguments import bad_counts, bad_spans, refuse
from fanout_briefs.errors import BadValue, NotSent
from fanout_briefs.model import Mail, Receipt

__all__ = ["OutcomeUnknown", "SmtpMailer"]

Security = Literal["starttls", "tls", "none"]

_PORTS: dict[Security, int] = {"starttls": 587, "tls": 465, "none": 25}
_LOCAL_NAME = re.compile(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)*|\[[A-Za-z0-9.:]+\]")
_NOT_IN_HOST = re.compile(r"[^\w.:%-]|\A\.|\A[^:]*:[^:]*\Z")  # The last alternative is a name with a port.
_LONGEST_WAIT = timedelta(days=1)
_SLICE = 16 * 1024  # One TLS record: anything larger takes several writes, each with its own timeout.
_GOODBYE_SECONDS = 2.0
_SHOWN = 300  # Characters of a server's reply.
_ABOUT_THE_LOGIN = (530, 534, 535, 538)  # RFC 4954, section 6. Never about the recipient.
# RFC 3463. Most often about who sends: such a server relays for nobody it does not know.
_POLICY = re.compile(rb"5\.7\.")
_ENHANCED_CODE = re.compile(rb"[245]\.\d{1,3}\.\d{1,3}\b")  # RFC 3463.


class OutcomeUnknown(Exception):
    """The server received the whole mail but gave no clear answer. The message says what happened."""


class SmtpMailer:
    """Sends mails through one SMTP server, with ``smtplib`` in threads.

    Each mail has its own connection. A kept connection would have to be closed by somebody, would be dropped by the
    server while idle between the briefs of two days, and would carry one mail's failure into the next. All it could
    save is a handshake, which happens while other mails wait for the server anyway.

    SMTP has no idempotency key: sending twice delivers twice, though under the same ``Message-ID``. So a mail whose
    outcome is unknown is not sent again unless somebody asks for it.

    A cancelled call ends when its SMTP conversation does, within ``timeout``; no thread is left behind, and the outcome
    is still reported. One object may serve several event loops, even at once; ``connections`` applies to each of them.
    """

    idempotent = False

    def __init__(
        self,
        host: str,
        port: int | None = None,
        *,
        sender: str,
        security: Security = "starttls",
        username: str | None = None,
        password: str | None = None,
        timeout: timedelta = timedelta(seconds=30),
        unsubscribe: Unsubscribe | None = None,
        tls_context: ssl.SSLContext | None = None,
        local_hostname: str | None = None,
        connections: int = 4,
    ) -> None:
        """Check all arguments; nothing is connected, resolved or read before the first mail.

        Args:
            host: The server's name or IP address, as in its certificate, without a port.
            port: None means 587 for ``starttls``, 465 for ``tls`` and 25 for ``none``.
            sender: The ``From`` header and the address for bounces: an address, or a name and an address as in
                ``Briefs <briefs@example.com>``. The address must be ASCII, except for its domain.
            security: ``starttls`` begins in plain text and sends no mail or password before TLS is established;
                ``tls`` uses TLS from the first byte; ``none`` sends everything in plain text, including the password,
                and is for a server on this machine. There is no fallback from one to another.
            username: The name to log in with; None does not log in.
            password: Goes with ``username``. Must be ASCII, since ``smtplib`` sends nothing else.
            timeout: How long the whole conversation for one mail may take, from connecting to the last reply. Only
                resolving the host is left to the system's own limits. A mail also waits at most this long for a free
                connection, so a send takes at most twice this; set the caller's timeout accordingly.
            unsubscribe: Returns the ``https`` URL where a single POST unsubscribes the recipient (RFC 8058), for the
                ``List-Unsubscribe`` headers, or None. Synchronous, and called in a thread; sign the URL's contents.
            tls_context: Decides which certificates to trust; None means ``ssl.create_default_context()``, created on
                first use.
            local_hostname: The name that this machine gives the server; None means its host name if that has a domain,
                or else the address it connects from.
            connections: How many mails may be sent at once.

        Raises:
            ValueError: Arguments are bad; the message names all of them.
        """
        problems: list[BadValue | str] = [
            *_address_problems(host, port, local_hostname),
            *_sender_problems(sender),
            *_security_problems(security, tls_context),
            *_login_problems(username, password),
            *bad_spans({"timeout": timeout}, least=timedelta(microseconds=1), most=_LONGEST_WAIT),
            *bad_counts({"connections": connections}),
            *unsubscribe_problems(unsubscribe),
        ]
        refuse(problems)
        server = _Server(
            host=host,
            port=_PORTS[security] if port is None else port,
            security=security,
            username=username,
            password=password,
            seconds=timeout.total_seconds(),
            tls_context=tls_context,
            local_hostname=local_hostname,
        )
        self._shown = f"SmtpMailer({host!r}, {server.port}, sender={sender!r}, security={security!r})"
        self._post = _Post(server, sender_address(sender), unsubscribe)
        self._server = server
        self._connections = connections
        # A semaphore belongs to one event loop, and one mailer may serve several.
        self._turns_of_loop: RunVar[anyio.Semaphore] = RunVar("smtp")

    def __repr__(self) -> str:
        return self._shown

    async def send(self, mail: Mail, key: str) -> Receipt:
        """Send one mail; the receipt's reference is its ``Message-ID`` and the server's reply, on one line.

        Raises:
            NotSent: The mail has certainly not left. Permanent if the server refused this recipient, or this mail
                after reading it, for good (5xx), or if the address cannot be used. Any other problem, such as
                with the sender, the login or the right to relay (5.7.x), would affect every mail, so it is not
                permanent.
            OutcomeUnknown: The server received the whole mail, but gave no clear answer.
            RetryLater: Raised by ``unsubscribe``; the mail has not left.
            PermanentFailure: Raised by ``unsubscribe``; the mail has not left.
        """
        turns = self._turns()
        # Not left to the thread limiter: a caller that gives up on a queued mail could not know that it never left,
        # and would have to treat it as unknown.
        with anyio.move_on_after(self._server.seconds) as waiting:
            await turns.acquire()
        if waiting.cancelled_caught:
            reason = f"all {self._connections} connections to {self._server} were taken for {self._server.seconds:g} s"
            raise NotSent(f"{reason}; the mail was not sent; it is tried again")
        try:
            return await to_thread.run_sync(self._post.send, mail, key, limiter=anyio.CapacityLimiter(1))
        finally:
            turns.release()

    def _turns(self) -> anyio.Semaphore:
        turns = self._turns_of_loop.get(None)
        if turns is None:
            turns = anyio.Semaphore(self._connections)
            self._turns_of_loop.set(turns)
        return turns


@frozen(kw_only=True)
class _Server:
    host: str
    port: int
    security: Security
    username: str | None
    password: str | None = field(repr=False)
    seconds: float
    tls_context: ssl.SSLContext | None
    local_hostname: str | None

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


class _Post:
    """The synchronous half: everything that happens in a thread."""

    def __init__(self, server: _Server, sender: Address, unsubscribe: Unsubscribe | None) -> None:
        self._server = server
        self._sender = sender
        self._unsubscribe = unsubscribe
        self._tls_context = server.tls_context

    def send(self, mail: Mail, key: str) -> Receipt:
        content = written(mail, key, self._sender, self._unsubscribe, international=True)
        to = recipient_address(mail.recipient, international=True).addr_spec
        conversation = _Conversation(self._server)
        try:
            try:
                conversation.open(self._context)
                conversation.hand_over(self._sender.addr_spec, to, content)
            except NotSent:
                raise
            except Exception as error:  # Whatever happened, the dot has not left.
                raise NotSent(f"{conversation.explain(error)}; the mail was not sent") from error
            reply = conversation.end_mail(to)
        finally:
            conversation.leave()
        return Receipt(f"{message_id(key, self._sender)} {reply}")

    def _context(self) -> ssl.SSLContext:
        if self._tls_context is None:
            self._tls_context = ssl.create_default_context()
        return self._tls_context


class _Conversation(smtplib.SMTP):
    """An ``smtplib`` conversation with one deadline for all of it.

    The timeout of ``smtplib`` restarts with each byte, so a slow server could hold a thread forever. Nor does it
    distinguish a connection lost before the final dot from one lost after it.
    """

    def __init__(self, server: _Server) -> None:
        super().__init__(local_hostname="unset")  # Without a host it does not connect.
        self._server = server
        self._deadline = time.monotonic() + server.seconds
        self._stage = "connecting"

    def open(self, tls_context: Callable[[], ssl.SSLContext]) -> None:
        """Connect, set up TLS and log in, as configured for the server."""
        security = self._server.security
        self.sock = self._connect()
        self.local_hostname = self._server.local_hostname or _local_name(self.sock)
        if security == "tls":
            self._encrypt(tls_context())
        self._stage = "the greeting"
        self._expect(2, self.getreply(), "see whether this machine may use that server")
        self._greet()
        if security == "starttls":
            self._start_tls(tls_context())
        if self._server.username is not None:
            self._log_in(self._server.username, cast("str", self._server.password))

    def hand_over(self, sender: str, to: str, content: bytes) -> None:
        """Send everything except the dot that completes the mail."""
        options = ""
        if not to.isascii():
            if not self.has_extn("smtputf8"):
                reason = f"needs SMTPUTF8, which {self._server} does not offer"
                raise NotSent(f"address={to!r}: {reason}; correct it, or use a server that does", permanent=True)
            self.command_encoding, options = "utf-8", " SMTPUTF8 BODY=8BITMIME"
        advice = f"see whether that server lets you send as {sender}"
        self._stage = "MAIL FROM"
        self._expect(2, self.docmd("MAIL", f"FROM:<{sender}>{options}"), advice)
        self._stage = f"RCPT TO {to}"
        reply = self.docmd("RCPT", f"TO:<{to}>")
        if _POLICY.match(reply[1]):
            self._expect(2, reply, "see whether that server lets this application send to others")
        self._expect(2, reply, "correct the address", is_about_recipient=True)
        self._stage = "DATA"
        self._expect(3, self.docmd("DATA"), "it is tried again")
        self._stage = "the content"
        stuffed = re.sub(rb"(?m)^\.", b"..", content)  # RFC 5321, section 4.5.2.
        for start in range(0, len(stuffed), _SLICE):
            self.send(stuffed[start : start + _SLICE])

    def end_mail(self, to: str) -> str:
        """Send the dot, and return the reply with which the server accepts the mail.

        Raises:
            NotSent: The server refused the mail, or the dot could not be sent.
            OutcomeUnknown: It did not answer, or its answer means neither yes nor no.
        """
        self._stage = f"the end of the mail to {to}"
        try:
            self.send(b".\r\n")
        except Exception as error:  # Three bytes leave together or not at all.
            raise NotSent(f"{self.explain(error)}; the mail was not sent") from error
        try:
            code, text = self.getreply()
        except Exception as error:
            raise OutcomeUnknown(f"{self.explain(error)}; it had the whole mail and may have delivered it") from error
        if not 200 <= code < 600 or 300 <= code < 400:
            reason = f"answered the whole mail to {to} with {_shown(code, text)!r}, which says neither yes nor no"
            raise OutcomeUnknown(f"{self._server} {reason}; it may have delivered it")
        self._expect(2, (code, text), "see what it says", is_about_recipient=True)
        return _shown(code, text)

    def leave(self) -> None:
        """Send QUIT as RFC 5321 requires, without waiting long: the outcome is already known."""
        self._deadline = min(self._deadline, time.monotonic() + _GOODBYE_SECONDS)
        with contextlib.suppress(Exception):
            self.docmd("QUIT")
        with contextlib.suppress(Exception):
            self.close()

    def explain(self, error: Exception) -> str:
        """Describe what went wrong with the connection, and where possible what to do about it."""
        server = self._server
        if isinstance(error, ssl.SSLCertVerificationError):
            reason = f"the certificate of {server} is not trusted ({error.verify_message})"
            return f"{reason}: name the host as its certificate does, or give a tls_context that knows its authority"
        if isinstance(error, socket.gaierror):
            return f"the host {server.host!r} could not be found ({error.strerror}): correct it, or see to the network"
        if isinstance(error, ConnectionRefusedError):
            return f"{server} refuses connections: see whether a mail server runs there, and whether the port is right"
        if isinstance(error, TimeoutError) or time.monotonic() >= self._deadline:
            return f"{server} left {self._stage} unanswered, and the {server.seconds:g} s of timeout are over"
        if isinstance(error, ssl.SSLError):
            reason = f"TLS could not be agreed with {server} ({error.reason or error})"
            return f"{reason}: see whether port={server.port} and security={server.security!r} belong together"
        return f"{server} broke off at {self._stage} ({str(error) or type(error).__name__})"

    def send(self, s: object) -> None:
        """Send bytes or text, by the deadline."""
        if self.sock is not None:  # If it is, smtplib raises.
            self.sock.settimeout(self._left())
        super().send(cast("bytes", s))

    def getreply(self) -> tuple[int, bytes]:
        """Read one reply, by the deadline."""
        if self.file is None:
            self.file = io.BufferedReader(_Incoming(self._receive))
        return super().getreply()

    def _receive(self, buffer: memoryview) -> int:
        sock = cast("socket.socket", self.sock)
        sock.settimeout(self._left())
        return sock.recv_into(buffer)

    def _left(self) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def _connect(self) -> socket.socket:
        """Try each of the host's addresses, all of them within the deadline."""
        found = socket.getaddrinfo(self._server.host, self._server.port, type=socket.SOCK_STREAM)
        failure = OSError("it has no address")
        for position, (family, kind, protocol, _, address) in enumerate(found):
            sock = socket.socket(family, kind, protocol)
            try:
                sock.settimeout(self._left() / (len(found) - position))
                sock.connect(address)
                # Without this, the small packet with the dot would wait until the content is acknowledged.
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            except OSError as error:
                failure = error
                sock.close()
            else:
                return sock
        raise failure

    def _greet(self) -> None:
        self._stage = "EHLO"
        reply = self.ehlo()
        if reply[0] // 100 != 2:
            reply = self.helo()
        self._expect(2, reply, "see whether this machine may use that server")

    def _start_tls(self, context: ssl.SSLContext) -> None:
        self._stage = "STARTTLS"
        if not self.has_extn("starttls"):
            advice = f"give security='tls' if it has a port for that, such as {_PORTS['tls']}, or ask who runs it"
            raise NotSent(f"{self._server} does not offer STARTTLS, and nothing is sent in plain text; {advice}")
        self._expect(2, self.docmd("STARTTLS"), "ask who runs that server")
        self._encrypt(context)
        self._greet()

    def _encrypt(self, context: ssl.SSLContext) -> None:
        self._stage = "the TLS handshake"
        sock = cast("socket.socket", self.sock)
        sock.settimeout(self._left())
        self.sock = context.wrap_socket(sock, server_hostname=self._server.host)
        self.file = None  # Discards unread bytes from before TLS: anybody may have sent them.

    def _log_in(self, username: str, password: str) -> None:
        self._stage = "AUTH"
        try:
            self.login(username, password)
        except smtplib.SMTPServerDisconnected:
            raise
        # Shows neither the server's reply nor these errors: they may repeat the password.
        except smtplib.SMTPAuthenticationError as error:
            enhanced = _ENHANCED_CODE.match(cast("bytes", error.smtp_error))
            code = f"{error.smtp_code} {enhanced[0].decode()}" if enhanced else f"{error.smtp_code}"
            reason = f"{self._server} refused the login of {username!r} ({code})"
            raise NotSent(f"{reason}; correct username and password; the mail was not sent") from None
        except (smtplib.SMTPException, ValueError):
            offered = one_line(self.esmtp_features.get("auth", "")) or "none"
            reason = f"{self._server} offers no login that can be used (AUTH: {offered})"
            raise NotSent(f"{reason}; leave out username, or use another port or server; nothing was sent") from None

    def _expect(
        self, hundreds: int, reply: tuple[int, bytes], advice: str, *, is_about_recipient: bool = False
    ) -> None:
        code, text = reply
        if code // 100 != hundreds:
            permanent = is_about_recipient and 500 <= code < 600 and code not in _ABOUT_THE_LOGIN
            said = f"{self._server} answered {self._stage} with {_shown(code, text)!r}"
            raise NotSent(f"{said}; the mail was not sent; {advice}", permanent=permanent)


class _Incoming(io.RawIOBase):
    """Bytes as they come, one read at a time."""

    def __init__(self, receive: Callable[[memoryview], int]) -> None:
        self._receive = receive

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        return self._receive(buffer)


def _shown(code: int, text: bytes) -> str:
    return one_line(f"{code} {text.decode('utf-8', 'replace')}")[:_SHOWN]


def _local_name(sock: socket.socket) -> str:
    """Return a name for EHLO without a DNS lookup: RFC 5321, section 4.1.4, allows the address."""
    name = socket.gethostname()
    if "." in name and _LOCAL_NAME.fullmatch(name):
        return name
    address = sock.getsockname()[0]
    return f"[IPv6:{address}]" if ":" in address else f"[{address}]"


def _address_problems(host: object, port: object, local_hostname: object) -> Iterator[BadValue]:
    if not isinstance(host, str) or not host or _NOT_IN_HOST.search(host):
        yield BadValue("host", host, "must be a name or an IP address, with the port as an argument of its own")
    elif not _is_domain(host):
        yield BadValue("host", host, "makes no host name: its parts must have 1 to 63 characters")
    if port is not None and (not _is_integer(port) or not 1 <= cast("int", port) <= 65535):
        yield BadValue("port", port, "must be an integer from 1 to 65535, or None")
    if local_hostname is not None and not (isinstance(local_hostname, str) and _LOCAL_NAME.fullmatch(local_hostname)):
        yield BadValue("local_hostname", local_hostname, "must be a host name in ASCII, an address in [], or None")


def _sender_problems(sender: object) -> Iterator[BadValue]:
    if not isinstance(sender, str):
        yield BadValue("sender", sender, "must be a string, such as Name <name@domain>")
        return
    try:
        sender_address(sender)
    except ValueError as error:
        yield BadValue("sender", sender, str(error))


def _security_problems(security: object, tls_context: object) -> Iterator[BadValue]:
    if security not in get_args(Security):
        yield BadValue("security", security, "must be 'starttls', 'tls' or 'none'")
    if tls_context is None:
        return
    if not isinstance(tls_context, ssl.SSLContext) or tls_context.protocol is ssl.PROTOCOL_TLS_SERVER:
        yield BadValue("tls_context", tls_context, "must be an ssl.SSLContext for clients, or None")
    elif security == "none":
        yield BadValue("tls_context", tls_context, "must be None, for security='none' uses no TLS")


def _login_problems(username: object, password: object) -> Iterator[BadValue | str]:
    if (username is None) != (password is None):
        yield "username and password: must be given both or neither"
    for name, value in (("username", username), ("password", password)):
        if value is not None and not (isinstance(value, str) and value and value.isascii() and value.isprintable()):
            yield f"{name}: must be printable ASCII, which is all that smtplib sends; the value is not shown"


def _is_integer(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_domain(host: str) -> bool:
    try:
        host.encode("idna")
    except UnicodeError:
        return False
    return True
