"""One-click unsubscribing (RFC 8058): signed links for the mail's headers, and a web page that answers them.

A link names a user and nothing else, and is signed, so that nobody can make one for somebody else. Only POST changes
anything: what mail scanners and browsers open by themselves, they open by GET.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from html import escape
from typing import Any, Final, TypeAlias
from urllib.parse import urlsplit

try:
    from itsdangerous import BadSignature, URLSafeSerializer
except ModuleNotFoundError as _missing:
    raise ImportError("UnsubscribeLinks needs itsdangerous: pip install 'fanout-briefs[unsubscribe]'") from _missing

from fanout_briefs.arguments import bad_kinds, refuse
from fanout_briefs.errors import BadValue, PermanentFailure
from fanout_briefs.model import Mail

__all__ = ["UnsubscribeLinks", "UnsubscribePage"]

_LONGEST: Final = 900
"""Characters of a link that still stands on one line of a header, with its name."""
_SHORTEST_SECRET: Final = 16

_Scope: TypeAlias = Mapping[str, Any]
_Receive: TypeAlias = Callable[[], Awaitable[Mapping[str, Any]]]
_Send: TypeAlias = Callable[[dict[str, Any]], Awaitable[None]]


class UnsubscribeLinks:
    """Makes a link for each user, and reads whose it is; for ``SmtpMailer(unsubscribe=links)``.

    A link is the same for every mail to a user and does not end: whoever finds an old mail may still unsubscribe.
    """

    def __init__(self, url: str, secret: str | Sequence[str], *, name: str = "daily_brief") -> None:
        """Check everything; nothing is asked for.

        Args:
            url: Where ``UnsubscribePage`` answers, an ``https`` URL without query; a token is added as its last part.
            secret: What signs, at least 16 characters that nobody else knows. Of several the last one signs, and all
                are accepted: so that a new one can be put in place, and links in old mails still work.
            name: The brief's. A link for one kind of brief says nothing about another.

        Raises:
            ValueError: Arguments are bad; all of them are named, and what a secret is, is not shown.
        """
        secrets = [secret] if isinstance(secret, str) else list(secret)
        refuse([*_bad_url(url), *_bad_secrets(secrets), *bad_kinds({"name": name}, str, may_be_none=False)])
        self._url = url.rstrip("/")
        self._signed = URLSafeSerializer(
            secrets,
            salt=f"fanout_briefs.unsubscribe:{name}",
            signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
        )

    def __repr__(self) -> str:
        return f"UnsubscribeLinks({self._url!r})"

    def __call__(self, mail: Mail) -> str:
        """Give the link for whoever a mail is to; see ``url``."""
        return self.url(mail.user_id)

    def url(self, user_id: str) -> str:
        """Give a user's link, also for a section of the brief itself.

        Raises:
            PermanentFailure: The id makes a link that is too long for a header.
        """
        link = f"{self._url}/{self._signed.dumps(user_id)}"
        if len(link) > _LONGEST:
            raise PermanentFailure(
                f"user_id={user_id!r}: makes an unsubscribe link of {len(link)} characters, and a header holds "
                f"{_LONGEST}; use shorter ids, or a shorter url"
            )
        return link

    def user_of(self, token: str) -> str | None:
        """Give whose the last part of a link is; None where we did not make it."""
        try:
            found: object = self._signed.loads(token)
        except BadSignature:  # also of what is no token at all
            return None
        return found if isinstance(found, str) else None


class UnsubscribePage:
    """An ASGI application that answers the links, for a host to mount where their ``url`` points.

    POST unsubscribes and says so; the body does not matter. GET shows a button that does the same. A link that we did
    not make is answered with 404. Each link may be used any number of times.
    """

    def __init__(
        self,
        links: UnsubscribeLinks,
        unsubscribe: Callable[[str], Awaitable[object]],
        *,
        question: str = "Stop sending me these mails?",
        button: str = "Unsubscribe",
        done: str = "You will get no more of these mails.",
    ) -> None:
        """Take what to call and what to show.

        Args:
            links: Reads the tokens.
            unsubscribe: Called with the user's id. It may be called again for the same user. What it raises, the web
                server answers with 500, and the sender's mail program tries again.
            question: Shown above the button, in plain text.
            button: On it.
            done: Shown once it is done.
        """
        self._links = links
        self._unsubscribe = unsubscribe
        form = f'<form method="post"><p>{escape(question)}</p><button>{escape(button)}</button></form>'
        self._form = _page(button, form)
        self._done = _page(button, f"<p>{escape(done)}</p>")

    async def __call__(self, scope: _Scope, _receive: _Receive, send: _Send) -> None:
        """Answer one request.

        Raises:
            NotImplementedError: It is none of HTTP's.
            Exception: What ``unsubscribe`` raises.
        """
        if scope["type"] != "http":
            raise NotImplementedError(f"only HTTP is answered here, not {scope['type']!r}")
        user_id = self._links.user_of(str(scope["path"]).rpartition("/")[2])
        if user_id is None:
            await _answer(send, 404, _page("Not found", "<p>There is no such link.</p>"))
        elif scope["method"] == "POST":
            await self._unsubscribe(user_id)
            await _answer(send, 200, self._done)
        elif scope["method"] in {"GET", "HEAD"}:
            await _answer(send, 200, self._form, shows_body=scope["method"] == "GET")
        else:
            await _answer(send, 405, _page("Not allowed", "<p>Use POST.</p>"), (b"allow", b"GET, HEAD, POST"))


def _bad_url(url: object) -> Iterator[BadValue]:
    parts = urlsplit(url) if isinstance(url, str) and url.isascii() else None
    if parts is None or parts.scheme != "https" or not parts.netloc or parts.query or parts.fragment:
        yield BadValue("url", url, "must be an https URL in ASCII without query and fragment")


def _bad_secrets(secrets: Sequence[object]) -> Iterator[str]:
    bad = [place for place, each in enumerate(secrets) if not isinstance(each, str) or len(each) < _SHORTEST_SECRET]
    if bad or not secrets:
        which = f" (not so: number {', '.join(str(place + 1) for place in bad)})" if len(secrets) > 1 else ""
        yield f"secret: must be at least {_SHORTEST_SECRET} characters, or several such{which}; it is not shown"


def _page(title: str, body: str) -> bytes:
    return (
        f'<!doctype html>\n<html><head><meta charset="utf-8"><title>{escape(title)}</title>'
        '<meta name="viewport" content="width=device-width"><meta name="robots" content="noindex"></head>'
        f'<body style="max-width:32em;margin:4em auto;padding:0 1em;font:16px/1.5 system-ui,sans-serif">{body}</body></html>\n'
    ).encode()


async def _answer(send: _Send, status: int, body: bytes, *more: tuple[bytes, bytes], shows_body: bool = True) -> None:
    headers = [
        (b"content-type", b"text/html; charset=utf-8"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        (b"referrer-policy", b"no-referrer"),  # The link is a key.
        *more,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body if shows_body else b""})
