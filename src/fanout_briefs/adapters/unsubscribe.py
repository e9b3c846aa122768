"""One-click unsubscribing (RFC 8058): signed links for the mail's headers, and a web page that answers them.

A link contains only a user id and is signed, so nobody can create one for somebody else. Only POST changes anything:
mail scanners and browsers that open links on their own use GET.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from html import escape
from typing import Any, Final, TypeAlias, cast

try:
    from itsdangerous import BadSignature, URLSafeSerializer
except ModuleNotFoundError as _missing:
    raise ImportError("UnsubscribeLinks needs itsdangerous: pip install 'fanout-briefs[unsubscribe]'") from _missing

from fanout_briefs.adapters._message import LONGEST_URL, is_unsubscribe_url
from fanout_briefs.arguments import bad_awaited, bad_kinds, refuse
from fanout_briefs.errors import BadValue, PermanentFailure
from fanout_briefs.model import Mail

__all__ = ["UnsubscribeLinks", "UnsubscribePage"]

_SHORTEST_SECRET: Final = 16

_Scope: TypeAlias = Mapping[str, Any]
_Receive: TypeAlias = Callable[[], Awaitable[Mapping[str, Any]]]
_Send: TypeAlias = Callable[[dict[str, Any]], Awaitable[None]]


class UnsubscribeLinks:
    """Creates a link for each user, and finds the user of a link; for ``SmtpMailer(unsubscribe=links)``.

    A user's link is the same in every mail and never expires, so links in old mails still work.
    """

    def __init__(self, url: str, secret: str | Sequence[str], *, name: str = "daily_brief") -> None:
        """Check all arguments, without network access.

        Args:
            url: The ``https`` URL of ``UnsubscribePage``, without a query; a token is appended as the last part of
                the path.
            secret: The signing key: at least 16 characters that nobody else knows. Of several, the last one signs and
                all are accepted, so that you can introduce a new one while links in old mails still work.
            name: The name of the brief. A link is only valid for this kind of brief.

        Raises:
            ValueError: Arguments are bad; the message names all of them, and never shows a secret.
        """
        secrets = [secret] if isinstance(secret, str) else secret
        refuse([*_bad_url(url), *_bad_secrets(secrets), *bad_kinds({"name": name}, str, may_be_none=False)])
        self._url = url.rstrip("/")
        self._signed = URLSafeSerializer(
            list(secrets),
            salt=f"fanout_briefs.unsubscribe:{name}",
            signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
        )

    def __repr__(self) -> str:
        return f"UnsubscribeLinks({self._url!r})"

    def __call__(self, mail: Mail) -> str:
        """Return the link for the user whom the mail is for; see ``url``."""
        return self.url(mail.user_id)

    def url(self, user_id: str) -> str:
        """Return a user's link, for example to show it in the brief itself.

        Raises:
            PermanentFailure: The user id makes the link too long for a header.
        """
        link = f"{self._url}/{self._signed.dumps(user_id)}"
        if len(link) > LONGEST_URL:
            raise PermanentFailure(
                f"user_id={user_id!r}: makes an unsubscribe link of {len(link)} characters, and a header holds "
                f"{LONGEST_URL}; use shorter ids, or a shorter url"
            )
        return link

    def user_of(self, token: str) -> str | None:
        """Return the user id of a token, the last part of a link; None if the token is not valid."""
        try:
            found: object = self._signed.loads(token)
        except (BadSignature, UnicodeError):  # Anything that is not a token raises these too.
            return None
        return found if isinstance(found, str) else None


class UnsubscribePage:
    """An ASGI application that answers the links; mount it where their ``url`` points.

    POST unsubscribes and confirms; the body does not matter. GET shows a button that does the same. An invalid link
    is answered with 404. Each link may be used any number of times.
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
        """Set what to call and what to show.

        Args:
            links: Reads the tokens.
            unsubscribe: Called with the user's id, possibly more than once for the same user. If it raises, the web
                server answers with 500, and the mail program that sent the request tries again.
            question: Shown above the button, as plain text.
            button: The label of the button, and the page's title.
            done: Shown after unsubscribing, as plain text.

        Raises:
            ValueError: Arguments are bad; the message names all of them.
        """
        refuse(
            [
                *bad_kinds({"links": links}, UnsubscribeLinks, may_be_none=False),
                *bad_awaited({"unsubscribe": unsubscribe}),
                *bad_kinds({"question": question, "button": button, "done": done}, str, may_be_none=False),
            ]
        )
        self._links = links
        self._unsubscribe = unsubscribe
        form = f'<form method="post"><p>{escape(question)}</p><button>{escape(button)}</button></form>'
        self._form = _page(button, form)
        self._done = _page(button, f"<p>{escape(done)}</p>")

    async def __call__(self, scope: _Scope, _receive: _Receive, send: _Send) -> None:
        """Answer one request.

        Raises:
            NotImplementedError: The request is not HTTP.
            Exception: Raised by ``unsubscribe``.
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
    if not is_unsubscribe_url(url) or set(url) & set("?#"):
        reason = "must be an https URL in ASCII, percent-encoded and without user, query and fragment"
        yield BadValue("url", url, reason)


def _bad_secrets(given: object) -> Iterator[str]:
    secrets = cast("Sequence[object]", given) if isinstance(given, Sequence) else [given]
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
        (b"referrer-policy", b"no-referrer"),  # The link works as a key.
        *more,
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body if shows_body else b""})
