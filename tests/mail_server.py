"""A real SMTP server on loopback, in a thread of the test: it behaves as told, user by user, and keeps count."""

from __future__ import annotations

import asyncio
import email
import email.policy
import socket
import threading
from collections.abc import Coroutine, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Self, TypeVar, cast

from aiosmtpd.smtp import SMTP, Envelope

__all__ = ["DROP", "HOLD", "STALL", "TAKE_AND_DROP", "MailServer"]

STALL = "<stall>"
"""Never answer."""
DROP = "<drop>"
"""Cut the connection; at the end of a mail, without taking it."""
TAKE_AND_DROP = "<take and drop>"
"""Take the mail, and cut the connection before saying so."""
HOLD = "<hold>"
"""Answer as usual once the test lets go."""

GUARD = 120.0
_T = TypeVar("_T")


class MailServer:
    """Takes every mail, save where the script says otherwise.

    Args:
        script: By stage (``RCPT``, or ``DATA`` for the end of a mail) and user, what to do at the first, second ...
            time; afterwards all is as usual. Anything but the four above is a reply.
    """

    def __init__(self, script: Mapping[tuple[str, str], Sequence[str]] | None = None) -> None:
        self.accepted: list[str] = []
        """The ``Message-ID`` of each mail that was taken, in order."""
        self.takers: list[str] = []
        """To which users."""
        self.mails: list[bytes] = []
        """What was in them."""
        self.reached: list[tuple[str, str]] = []
        self._acts = {place: list(acts) for place, acts in (script or {}).items()}
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._let_go = asyncio.Event()
        self._transports: set[asyncio.Transport] = set()
        self._listening: asyncio.Server | None = None
        self._thread = threading.Thread(target=self._loop.run_forever)
        self.port = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._do(self._open())
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._close())
        self._do(self._settle())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    @contextmanager
    def away(self) -> Generator[None]:
        """The server is restarted: connections break off, and until the end of this nobody listens."""
        self._do(self._close())
        yield
        self._do(self._open())

    def waits_for(self, stage: str, user_id: str) -> None:
        """Wait until a client has come there."""
        with self._changed:
            assert self._changed.wait_for(lambda: (stage, user_id) in self.reached, GUARD), f"nobody came to {stage}"

    def wait_until_taken(self, count: int) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.accepted) >= count, GUARD), f"{len(self.accepted)} mails"

    def let_go(self) -> None:
        """End every HOLD."""
        self._loop.call_soon_threadsafe(self._let_go.set)

    # in the server's loop ----------------------------------------------------------------------------

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, server: SMTP, session: object, envelope: Envelope, address: str, options: object
    ) -> str:
        said = await self._act(server, "RCPT", _user_of(address))
        if said is None:
            envelope.rcpt_tos.append(address)
        return said or "250 OK"

    async def handle_DATA(self, server: SMTP, session: object, envelope: Envelope) -> str:  # noqa: N802 - as above
        said = await self._act(server, "DATA", _user_of(envelope.rcpt_tos[0]), envelope)
        if said is None:
            self._take(envelope)
        return said or "250 OK: queued"

    async def _act(self, server: SMTP, stage: str, user_id: str, envelope: Envelope | None = None) -> str | None:
        with self._changed:
            self.reached.append((stage, user_id))
            self._changed.notify_all()
        acts = self._acts.get((stage, user_id))
        act = acts.pop(0) if acts else None
        if act == HOLD:
            await self._let_go.wait()
            return None
        if act == TAKE_AND_DROP and envelope is not None:
            self._take(envelope)
        if act in {DROP, TAKE_AND_DROP}:
            cast("asyncio.Transport", server.transport).abort()
        if act in {STALL, DROP, TAKE_AND_DROP}:
            await asyncio.Event().wait()  # Ends when the connection does.
        return act

    def _take(self, envelope: Envelope) -> None:
        content = cast("bytes", envelope.content)
        message = email.message_from_bytes(content, policy=email.policy.default)
        with self._changed:
            self.mails.append(content)
            self.accepted.append(str(message["Message-ID"]))
            self.takers += map(_user_of, envelope.rcpt_tos)
            self._changed.notify_all()

    def _protocol(self) -> SMTP:
        server = self

        class Protocol(SMTP):
            def connection_made(self, transport: asyncio.BaseTransport) -> None:
                server._transports.add(cast("asyncio.Transport", transport))
                super().connection_made(transport)

            def connection_lost(self, error: Exception | None) -> None:
                server._transports.discard(cast("asyncio.Transport", self.transport))
                super().connection_lost(error)

        return Protocol(self, hostname="mx.example.net", loop=self._loop)

    async def _open(self) -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))
        self._listening = await self._loop.create_server(self._protocol, sock=listener)
        self.port = listener.getsockname()[1]

    async def _close(self) -> None:
        if self._listening is not None:
            # Whoever was just accepted is let in first: once a server is closed, asyncio leaves their socket open.
            for listener in self._listening.sockets:
                self._loop.remove_reader(listener.fileno())
            await asyncio.sleep(0)
            self._listening.close()
        await self._hang_up()

    async def _hang_up(self) -> None:
        for _ in range(5):  # Some connections are only being made, and aborted ones close in the loop's next turns.
            for transport in list(self._transports):
                transport.abort()
            await asyncio.sleep(0)

    async def _settle(self) -> None:
        tasks = asyncio.all_tasks() - {cast("asyncio.Task[Any]", asyncio.current_task())}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._hang_up()

    def _do(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(GUARD)


def _user_of(address: str) -> str:
    return address.partition("@")[0]
