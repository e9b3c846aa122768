"""A mailer that writes each mail to a folder as an ``.eml`` file: for development, tests, and outboxes others empty.

A file is there wholly or not at all, and the same mail with the same key is the same bytes under the same name.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.parser import BytesHeaderParser
from email.policy import SMTP
from hashlib import blake2b
from pathlib import Path
from urllib.parse import quote

import anyio.to_thread

from fanout_briefs.errors import NotSent
from fanout_briefs.model import Mail, Receipt

__all__ = ["EmlMailer"]

_SAFE = "@+=," if os.name == "nt" else ":@+=,"
_LONGEST = 200  # Names end at 255 bytes nearly everywhere, and the hash and the suffix need 37 of them.
_LOOKS_HASHED = re.compile(r"-[0-9a-f]{32}$")
_UNPRINTABLE = re.compile(r"[\s\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
_SPECIAL = re.compile(r'[()<>\[\]:;@\\,."=?]+')
_ADVICE = {
    errno.EEXIST: "a file stands where the folder should be: move it, or name another folder",
    errno.ENOTDIR: "a file stands where the folder should be: move it, or name another folder",
    errno.EROFS: "the file system is read-only: name another folder",
    errno.ENOSPC: "free some disk space",
}


class EmlMailer:
    """Writes mails into ``folder``, which is created when the first one comes.

    A process that is killed while it writes leaves at most a file whose name starts with a dot and ends in
    ``.tmp``. Nothing ever reads it; delete it whenever no mailer runs.
    """

    idempotent = True

    def __init__(self, folder: str | os.PathLike[str], *, sender: str = "briefs@localhost") -> None:
        """Check the sender; the file system is not touched before the first mail.

        Args:
            folder: Where the files go, as ``{key}.eml``. A key that some file system might refuse, or take for
                another one, is cut and gets a hash.
            sender: What stands in ``From``: an address, or a name and an address as in ``Briefs <briefs@localhost>``.

        Raises:
            ValueError: ``sender`` is not exactly one address.
        """
        self._folder = Path(folder)
        try:
            self._sender = _one_address(sender)
        except ValueError as error:
            raise ValueError(f"sender={sender!r}: {error}, or Name <name@domain>") from error

    async def send(self, mail: Mail, key: str) -> Receipt:
        """Write the file, in place of an earlier attempt's; the receipt's reference is its path.

        Raises:
            NotSent: The file could not be written: the message says which, why, and what to do. Permanent
                where the recipient's address makes no header.
        """
        return await anyio.to_thread.run_sync(self._send, mail, key)

    def _send(self, mail: Mail, key: str) -> Receipt:
        path = self._folder / _file_name(key)
        content = _compose(mail, key, self._sender)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            _replace(path, content)
        except OSError as error:
            advice = _ADVICE.get(error.errno or 0, "see that this process may write there, or name another folder")
            raise NotSent(f"{path}: the mail could not be written ({error.strerror or error}); {advice}") from error
        _sync(self._folder)
        return Receipt(str(path))


def _file_name(key: str) -> str:
    """Give each key a name of its own, also where the file system folds case.

    A name is either the key itself, in lower case, or ends in the key's hash. A key that looks like the second
    kind is hashed too, so that the two kinds never meet.
    """
    quoted = quote(key, safe=_SAFE, errors="surrogatepass")
    if quoted.startswith("."):
        quoted = f"%2E{quoted[1:]}"  # A dot in front marks files that are not finished.
    if not key or quoted != key.lower() or len(quoted) > _LONGEST or _LOOKS_HASHED.search(quoted):
        quoted = f"{quoted[:_LONGEST]}-{_hash(key)}"
    return f"{quoted}.eml"


def _replace(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{secrets.token_hex(8)}.tmp")
    try:
        with temporary.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)  # noqa: PTH105 - the tests stop a child process here, by this name.
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _sync(folder: Path) -> None:
    """Make the new name last through a power failure, where the system can; the file is there in any case."""
    if os.name == "posix":
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


def _compose(mail: Mail, key: str, sender: Address) -> bytes:
    to = mail.recipient
    try:
        parsed = _one_address(to.address)
    except ValueError as error:
        raise NotSent(f"address={to.address!r}: {error}; correct it", permanent=True) from error
    if parsed.display_name:
        raise NotSent(f"address={to.address!r}: must be the bare address, the name stands beside it", permanent=True)
    # When the standard library folds a long name it may drop the quotes, and what stood between them then reads
    # as further recipients (seen in 3.12.1). So what was written is read back before it is believed.
    name = _one_line(to.name or "")
    for shown in (name, _one_line(_SPECIAL.sub(" ", name)), ""):
        with contextlib.suppress(ValueError, MessageError):
            content = _render(mail, key, sender, Address(shown, parsed.username, parsed.domain))
            if _recipients(content) == [("".join(shown.split()), parsed.addr_spec)]:
                return content
    raise NotSent(f"address={to.address!r}: cannot be written into a header; correct it", permanent=True)


def _render(mail: Mail, key: str, sender: Address, to: Address) -> bytes:
    rendered = mail.rendered
    message = EmailMessage(SMTP)
    message["From"] = sender
    message["To"] = to
    message["Subject"] = _one_line(rendered.subject)
    message["Date"] = mail.occurrence.deliver_at
    message["Message-ID"] = f"<{_hash(key)}@{sender.domain}>"
    # Quoted-printable holds no "=_", so no content can end a part early.
    message.set_content(_encodable(rendered.text), cte="quoted-printable")
    message.add_alternative(_encodable(rendered.html), subtype="html", cte="quoted-printable")
    message.set_boundary(f"=_{_hash(key)}")
    return message.as_bytes()


def _recipients(content: bytes) -> list[tuple[str, str]]:
    """Read back names, without the white space that the parser puts where a long name was folded, and addresses."""
    headers = BytesHeaderParser(policy=SMTP).parsebytes(content)
    return [("".join(address.display_name.split()), address.addr_spec) for address in headers["To"].addresses]


def _one_address(text: str) -> Address:
    """Parse ``name@domain`` or ``Name <name@domain>``, the domain turned into what mail systems know it by.

    Raises:
        ValueError: It is not exactly one address, without anything that a parser would have to guess at.
    """
    try:
        header = SMTP.header_factory("To", text)
        (address,) = header.addresses
        domain = address.domain if address.domain.isascii() else address.domain.encode("idna").decode()
    except (ValueError, IndexError, MessageError) as error:  # The parser raises what it stumbles over.
        raise ValueError("must be one address of the form name@domain") from error
    if header.defects or not domain:
        reasons = "; ".join(str(defect) for defect in header.defects)
        raise ValueError(f"must be one address of the form name@domain{reasons and f' ({reasons})'}")
    return Address(address.display_name, address.username, domain)


def _one_line(text: str) -> str:
    return _UNPRINTABLE.sub(" ", text).strip()


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _hash(key: str) -> str:
    return blake2b(key.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
