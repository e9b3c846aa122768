"""The messages that the shipped mailers write: one complete message per mail, the same bytes on every attempt.

Names, subjects, texts, addresses and URLs cannot inject anything into the message, whatever they contain. A name
that cannot be written safely is left out; an address or URL that cannot is refused.
"""

from __future__ import annotations

import contextlib
import inspect
import re
from collections.abc import Callable, Iterator
from email.errors import NonASCIILocalPartDefect
from email.header import Header
from email.headerregistry import Address
from email.message import EmailMessage
from email.parser import HeaderParser
from email.policy import SMTP, SMTPUTF8
from hashlib import blake2b
from typing import Any, TypeAlias, TypeGuard

from fanout_briefs.errors import BadValue, NotSent, PermanentFailure, RetryLater
from fanout_briefs.model import Mail, Recipient

__all__ = [
    "LONGEST_URL",
    "Unsubscribe",
    "compose",
    "hash_of",
    "is_unsubscribe_url",
    "message_id",
    "one_address",
    "one_line",
    "recipient_address",
    "sender_address",
    "unsubscribe_problems",
    "written",
]

Unsubscribe: TypeAlias = Callable[[Mail], str | None]
"""Returns the URL where a single POST unsubscribes the mail's recipient."""

_UNPRINTABLE = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
_CRLF = "\r\n"
_SPECIAL = re.compile(r'[()<>\[\]:;@\\,."=?]+')
_HEADERS = ["content-type", "date", "from", "message-id", "mime-version", "subject", "to"]
_HTTPS = re.compile(
    r"https://(?:[a-z0-9.-]+|\[[0-9a-f:.]+\])(?::[0-9]+)?(?:[/?#][a-z0-9._~:/?#\[\]@!$&'()*+,;=%-]*)?",
    re.ASCII | re.IGNORECASE,
)
LONGEST_URL = 900  # RFC 5322, section 2.1.1, allows 998 characters per line, and this header must not be folded.


def written(
    mail: Mail, key: str, sender: Address, unsubscribe: Unsubscribe | None, *, international: bool = False
) -> bytes:
    """Write a mail as ``compose`` does, with the URL that the host's ``unsubscribe`` returns.

    Raises:
        NotSent: The mail could not be written; permanent if the recipient's address is not valid in a header.
        RetryLater, PermanentFailure: ``unsubscribe`` raised it.
    """
    try:
        url = None if unsubscribe is None else unsubscribe(mail)
        return compose(mail, key, sender, unsubscribe=url, international=international)
    except (NotSent, RetryLater, PermanentFailure):
        raise
    except Exception as error:
        # Any other exception would mean an unknown outcome, but this mail has certainly not left.
        raise NotSent(f"the mail to user {mail.user_id!r} could not be written: {error!r}") from error


def unsubscribe_problems(unsubscribe: object) -> Iterator[BadValue]:
    """Yield the problems with an ``unsubscribe`` argument."""
    if unsubscribe is not None and (not callable(unsubscribe) or inspect.iscoroutinefunction(unsubscribe)):
        yield BadValue("unsubscribe", unsubscribe, "must be a synchronous callable, or None")


def compose(
    mail: Mail, key: str, sender: Address, *, unsubscribe: str | None = None, international: bool = False
) -> bytes:
    """Write a mail with HTML and text parts, as wrapped ASCII lines with CRLF endings that every mail system accepts.

    Args:
        mail: The mail. Its date is ``deliver_at``, not the time of the attempt.
        key: Determines the ``Message-ID`` and the boundary between the parts.
        sender: An address from ``sender_address``.
        unsubscribe: An ``https`` URL where a single POST unsubscribes the recipient (RFC 8058).
        international: Also accept addresses that need SMTPUTF8; the headers of their mails are UTF-8 (RFC 6532).

    Raises:
        NotSent: The recipient's address is not valid in a header; permanent.
        ValueError: ``unsubscribe`` is not an ``https`` URL that is valid in a header.
    """
    one_click = b"" if unsubscribe is None else _one_click(unsubscribe)
    to = recipient_address(mail.recipient, international=international)
    # When the standard library folds a long name, it may drop the quotes, and the quoted text then reads as further
    # recipients (seen in 3.11 to 3.13). So the result is parsed and compared before it is used.
    name = one_line(mail.recipient.name or "")
    for shown in (name, one_line(_SPECIAL.sub(" ", name)), ""):
        with contextlib.suppress(Exception):  # The library looks for encoded words in names and fails on some.
            named = Address(shown, to.username, to.domain)
            content = _render(mail, key, sender, named)
            if _has_just_its_headers(content) and _reads_back(content, "To", named):
                return one_click + content
    raise NotSent(f"address={mail.recipient.address!r}: cannot be written into a header; correct it", permanent=True)


def message_id(key: str, sender: Address) -> str:
    """Return the ``Message-ID`` that every attempt with this key has."""
    return f"<{hash_of(key)}@{sender.domain}>"


def recipient_address(recipient: Recipient, *, international: bool = False) -> Address:
    """Return the recipient's address, without a name.

    Raises:
        NotSent: It is not a bare address; permanent.
    """
    try:
        parsed = one_address(recipient.address, international=international)
    except ValueError as error:
        raise NotSent(f"address={recipient.address!r}: {error}; correct it", permanent=True) from error
    if parsed.display_name:
        reason = "must be the bare address, the name stands beside it"
        raise NotSent(f"address={recipient.address!r}: {reason}", permanent=True)
    return parsed


def sender_address(text: str) -> Address:
    """Parse the address for ``From``.

    Raises:
        ValueError: ``text`` is not exactly one address, or its name cannot be written without changing that.
    """
    try:
        address = one_address(text)
    except ValueError as error:
        raise ValueError(f"{error}, or Name <name@domain>") from error
    header = EmailMessage(SMTP)
    header["From"] = address
    if not _reads_back(header.as_bytes(), "From", address):
        raise ValueError("the name cannot be written with these characters; shorten it, or leave them out")
    return address


_OTHER_DOMAIN = frozenset("\u00df\u03c2\u200c\u200d")
"""Characters for which Python's IDNA 2003 gives another domain than the one that is registered today (RFC 5894)."""


def one_address(text: str, *, international: bool = False) -> Address:
    """Parse ``name@domain`` or ``Name <name@domain>``; a non-ASCII domain is converted with IDNA.

    Args:
        text: The text to parse.
        international: Also accept a non-ASCII part before the ``@``, for SMTPUTF8.

    Raises:
        ValueError: ``text`` is not exactly one address, or a parser would have to guess.
    """
    try:
        header = SMTP.header_factory("To", text)
        (address,) = header.addresses
        domain = address.domain if address.domain.isascii() else address.domain.encode("idna").decode()
    except Exception as error:  # The parser lets internal errors through: IndexError, AttributeError ...
        raise ValueError("must be one address of the form name@domain") from error
    allowed = NonASCIILocalPartDefect if international and address.username.isprintable() else ()
    defects = [defect for defect in header.defects if not isinstance(defect, allowed)]
    if defects or not domain:
        reasons = "; ".join(map(str, defects))
        raise ValueError(f"must be one address of the form name@domain{reasons and f' ({reasons})'}")
    if _OTHER_DOMAIN.intersection(address.domain):
        raise ValueError("must have its domain in ASCII, as in xn--..., because IDNA 2003 and 2008 differ about it")
    return Address(address.display_name, address.username, domain)


def one_line(text: str) -> str:
    """Replace every run of white space and control characters with one space, and strip the ends."""
    return _UNPRINTABLE.sub(" ", text).strip()


def hash_of(key: str) -> str:
    """Return a hash of the key, as 32 hexadecimal digits."""
    return blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def is_unsubscribe_url(url: object) -> TypeGuard[str]:
    """Whether the header for one-click unsubscribing can hold it."""
    return isinstance(url, str) and len(url) <= LONGEST_URL and _HTTPS.fullmatch(url) is not None


def _one_click(url: str) -> bytes:
    if not is_unsubscribe_url(url):
        raise ValueError(
            f"unsubscribe={url!r}: must be an https URL of at most {LONGEST_URL} ASCII characters, or None"
        )
    # Not through EmailMessage: it turns a long URL into encoded words, which nobody decodes in this header.
    return f"List-Unsubscribe: <{url}>{_CRLF}List-Unsubscribe-Post: List-Unsubscribe=One-Click{_CRLF}".encode()


def _render(mail: Mail, key: str, sender: Address, to: Address) -> bytes:
    rendered = mail.rendered
    message = EmailMessage(_policy(to))
    message["From"] = sender
    message["To"] = to
    subject = one_line(rendered.subject)
    if "=?" not in subject:
        message["Subject"] = subject
    message["Date"] = mail.occurrence.deliver_at
    message["Message-ID"] = message_id(key, sender)
    # Quoted-printable never contains "=_", so no content can end a part early.
    message.set_content(_encodable(rendered.text), cte="quoted-printable")
    message.add_alternative(_encodable(rendered.html), subtype="html", cte="quoted-printable")
    message.set_boundary(f"=_{hash_of(key)}")
    content = message.as_bytes()
    return content if "=?" not in subject else _encoded_subject(subject) + content


def _encoded_subject(subject: str) -> bytes:
    """Write a subject that looks like encoded words, so that it is shown unchanged.

    ``EmailMessage`` would decode it first and write any decoded line breaks as such: with
    ``=?utf-8?q?=0D=0ABcc:...?=`` anybody could add a header (seen in 3.11 and 3.12.1).
    """
    return f"Subject: {Header(subject, 'utf-8', header_name='Subject').encode(linesep=_CRLF)}{_CRLF}".encode()


def _has_just_its_headers(content: bytes) -> bool:
    return sorted(map(str.lower, HeaderParser(policy=SMTP).parsestr(content.decode()).keys())) == _HEADERS


def _policy(to: Address) -> Any:  # Type checkers disagree on the type parameters of EmailPolicy.
    return SMTP if to.addr_spec.isascii() else SMTPUTF8


def _reads_back(content: bytes, header: str, written: Address) -> bool:
    """Whether a parser finds exactly that address in the header, without guessing.

    White space in the name is ignored: the parser inserts some where a long name was folded.
    """
    read: Any = HeaderParser(policy=_policy(written)).parsestr(content.decode())[header]
    found = [("".join(address.display_name.split()), address.addr_spec) for address in read.addresses]
    is_clear = all(isinstance(defect, NonASCIILocalPartDefect) for defect in read.defects)
    return is_clear and found == [("".join(written.display_name.split()), written.addr_spec)]


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()
