"""A mailer that writes each mail to a folder as an ``.eml`` file.

Meant for development, tests, and outboxes that another program empties. Files are written atomically. The same mail
with the same key always gives the same bytes under the same name.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
from pathlib import Path
from typing import Final
from urllib.parse import quote

import anyio.to_thread

from fanout_briefs.adapters._message import Unsubscribe, hash_of, sender_address, unsubscribe_problems, written
from fanout_briefs.arguments import bad_kinds, refuse
from fanout_briefs.errors import BadValue, NotSent
from fanout_briefs.model import Mail, Receipt

__all__ = ["EmlMailer"]

_SAFE = "@+=," if os.name == "nt" else ":@+=,"
_LONGEST = 200  # Most file systems allow names of 255 bytes, and the hash and the suffix need 37 of them.
_LOOKS_HASHED = re.compile(r"-[0-9a-f]{32}$")
_ADVICE = {
    errno.EEXIST: "a file stands where the folder should be: move it, or name another folder",
    errno.ENOTDIR: "a file stands where the folder should be: move it, or name another folder",
    errno.EROFS: "the file system is read-only: name another folder",
    errno.ENOSPC: "free some disk space",
}


class EmlMailer:
    """Writes mails into ``folder``, which is created with the first mail.

    A process killed while writing leaves at most a file whose name starts with a dot and ends in ``.tmp``. Nothing
    reads it; delete it whenever no mailer is running.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        sender: str = "briefs@localhost",
        unsubscribe: Unsubscribe | None = None,
        idempotent: bool = True,
    ) -> None:
        """Check the arguments; the file system is not touched before the first mail.

        Args:
            folder: Where the files go, as ``{key}.eml``. A key that some file system might refuse or confuse with
                another one is shortened and gets a hash.
            sender: The ``From`` header: an address, or a name and an address as in ``Briefs <briefs@localhost>``.
            unsubscribe: As for ``SmtpMailer``, so that both write the same mails.
            idempotent: Whether the files stay where they are written, so that writing one again changes nothing. Pass
                False if another program takes them away, as a mail server does with its pickup folder; a mail whose
                outcome is unknown is then not written again.

        Raises:
            ValueError: Arguments are bad; the message names all of them.
        """
        self._folder = Path(folder)
        self._unsubscribe = unsubscribe
        self.idempotent: Final = idempotent
        problems = [*unsubscribe_problems(unsubscribe), *bad_kinds({"idempotent": idempotent}, bool, may_be_none=False)]
        try:
            self._sender = sender_address(sender)
        except ValueError as error:
            problems.insert(0, BadValue("sender", sender, str(error)))
        refuse(problems)

    async def send(self, mail: Mail, key: str) -> Receipt:
        """Write the file, replacing that of an earlier attempt; the receipt's reference is its path.

        Raises:
            NotSent: The mail could not be written; the message says why and what to do. Permanent if the
                recipient's address is not valid in a header.
            RetryLater: Raised by ``unsubscribe``.
            PermanentFailure: Raised by ``unsubscribe``.
        """
        return await anyio.to_thread.run_sync(self._send, mail, key)

    def _send(self, mail: Mail, key: str) -> Receipt:
        path = self._folder / _file_name(key)
        content = written(mail, key, self._sender, self._unsubscribe)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            _replace(path, content)
        except OSError as error:
            advice = _ADVICE.get(error.errno or 0, "see that this process may write there, or name another folder")
            raise NotSent(f"{path}: the mail could not be written ({error.strerror or error}); {advice}") from error
        _sync(self._folder)
        return Receipt(str(path))


def _file_name(key: str) -> str:
    """Return a file name that is unique to the key, even on file systems that fold case.

    The name is either the key itself, in lower case, or ends in the key's hash. A key that looks like the second
    kind is hashed too, so the two kinds never collide.
    """
    quoted = quote(key, safe=_SAFE, errors="surrogatepass")
    if quoted.startswith("."):
        quoted = f"%2E{quoted[1:]}"  # A leading dot marks unfinished files.
    if not key or quoted != key.lower() or len(quoted) > _LONGEST or _LOOKS_HASHED.search(quoted):
        quoted = f"{quoted[:_LONGEST]}-{hash_of(key)}"
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
    """Make the new name survive a power failure, where the system supports it; the file exists in any case."""
    if os.name == "posix":
        with contextlib.suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
