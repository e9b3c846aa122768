"""The .eml mailer: whole files, one a key, whatever stands in keys, names and addresses."""

from __future__ import annotations

import email
import email.policy
import errno
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import anyio
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fanout_briefs.adapters._message import compose, one_address
from fanout_briefs.adapters.eml import EmlMailer, _file_name  # pyright: ignore[reportPrivateUsage]
from fanout_briefs.errors import NotSent
from fanout_briefs.model import Mail
from fanout_briefs.ports import Mailer
from mails import a_mail

KEY = "daily_brief_email:2026-03-09:ada:1"


def parsed(content: bytes) -> EmailMessage:
    message = email.message_from_bytes(content, policy=email.policy.default)
    assert isinstance(message, EmailMessage)
    return message


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def body(message: EmailMessage, kind: str) -> str:
    part = message.get_body((kind,))
    assert part is not None
    return str(part.get_content()).replace("\r\n", "\n")


def composed(mail: Mail) -> EmailMessage:
    return parsed(compose(mail, KEY, one_address("briefs@localhost")))


async def test_a_mail_becomes_a_file_that_mail_programs_read(tmp_path: Path) -> None:
    mailer: Mailer = EmlMailer(tmp_path / "out" / "box", sender="Morning briefs <briefs@example.com>")
    receipt = await mailer.send(a_mail(subject="Grüße, 你好"), KEY)

    assert mailer.idempotent
    assert receipt.reference == str(tmp_path / "out" / "box" / f"{KEY}.eml")
    message = parsed(files(tmp_path / "out" / "box")[f"{KEY}.eml"])
    assert message["From"] == "Morning briefs <briefs@example.com>"
    assert message["To"] == "Ada Okafor <ada@example.com>"
    assert message["Subject"] == "Grüße, 你好"
    assert message["Date"].datetime == datetime(2026, 3, 9, 6, 30, tzinfo=UTC)
    assert message.get_content_type() == "multipart/alternative"
    assert body(message, "plain") == "Three things happened.\n"
    assert body(message, "html") == "<!doctype html><p>Three things happened.</p>\n"
    assert not message.defects


async def test_sending_twice_gives_the_same_bytes_in_one_file(tmp_path: Path) -> None:
    mailer = EmlMailer(tmp_path)
    await mailer.send(a_mail(), KEY)
    first = files(tmp_path)
    await mailer.send(a_mail(), KEY)
    assert files(tmp_path) == first
    assert list(first) == [f"{KEY}.eml"]


async def test_every_key_has_its_own_message_id_and_the_same_one_always(tmp_path: Path) -> None:
    mailer = EmlMailer(tmp_path)
    for key in (KEY, KEY, KEY.replace(":1", ":2")):
        await mailer.send(a_mail(), key)
    assert len({parsed(content)["Message-ID"] for content in files(tmp_path).values()}) == 2


async def test_many_mails_at_once_are_all_whole(tmp_path: Path) -> None:
    mailer = EmlMailer(tmp_path)
    async with anyio.create_task_group() as group:
        for number in range(50):
            group.start_soon(mailer.send, a_mail(text=f"{number}\n" * 1000), f"k:{number % 25}")
    contents = files(tmp_path)
    assert len(contents) == 25
    assert all(len(set(body(parsed(content), "plain").split())) == 1 for content in contents.values())


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("daily:2026-03-09:ada:1", "daily:2026-03-09:ada:1.eml"),
        ("a@b+c=d,e", "a@b+c=d,e.eml"),
    ],
)
@pytest.mark.skipif(os.name == "nt", reason="Windows allows no colon in a file name")
def test_an_ordinary_key_is_the_file_name(key: str, name: str) -> None:
    assert _file_name(key) == name


keys = st.text(min_size=0, max_size=300) | st.text("aAbB:/-.%_~ \x00ß", max_size=8)


@given(keys, keys)
@example("ada", "Ada")
@example("../x", "..%2fx")
@example("", "-" + "0" * 32)
@example("x" * 300, "x" * 299 + "y")
@example(".", "%2E")
@example("ß", "SS")
def test_no_two_keys_share_a_file_even_where_case_is_folded(one: str, other: str) -> None:
    names = [_file_name(one), _file_name(other)]
    assert (names[0].casefold() == names[1].casefold()) == (one == other)
    for name in names:
        assert len(name.encode()) <= 255
        assert name.isascii()
        assert name.endswith(".eml")
        assert not name.startswith(".")
        assert not set(name) & set('/\\\0<>"|?* ')


def test_a_key_made_to_look_like_another_keys_file_does_not_meet_it() -> None:
    victim = _file_name("daily:2026-03-09:Ada:1").removesuffix(".eml")
    assert _file_name(victim.lower()).casefold() != f"{victim}.eml".casefold()


@given(name=st.text(max_size=200), subject=st.text(max_size=300), text=st.text(max_size=300))
@example(name="Very " * 15 + ", evil@example.com", subject="", text="")
@example(name='x"y, <evil@e.com>' * 8, subject="", text="")
@example(name="Ünï " * 20 + ", <evil@e.com>", subject="", text="")
@example(name="=?utf-8?q?evil=40e.com=2C?=", subject="", text="")
@example(name="A\r\nBcc: evil@example.com", subject="B\r\nBcc: evil@example.com", text="")
@example(name="A\u2028Bcc: e@e", subject="B\x85Bcc: e@e", text="\ud800")
def test_no_name_subject_or_text_adds_a_header_or_a_recipient(name: str, subject: str, text: str) -> None:
    message = composed(a_mail(name=name, subject=subject, text=text))
    assert [address.addr_spec for address in message["To"].addresses] == ["ada@example.com"]
    assert sorted(message.keys()) == ["Content-Type", "Date", "From", "MIME-Version", "Message-ID", "Subject", "To"]
    assert [part.get_content_type() for part in message.iter_parts()] == ["text/plain", "text/html"]


@given(name=st.text(st.characters(categories=["L", "N"]), max_size=60))
@example(name="Doe, José")
@example(name="Александра Константиновна Пржевальская-Рождественская")
@example(name="Dr. Jane O'Neil, PhD")
def test_ordinary_names_stay_as_they_are(name: str) -> None:
    shown = composed(a_mail(name=name))["To"].addresses[0].display_name
    # Where a long name was folded, Python's own parser leaves a space that RFC 2047 wants ignored.
    assert shown == name if len(name) < 10 else "".join(shown.split()) == name.replace(" ", "")


@given(subject=st.text(st.characters(categories=["L", "N", "P"]), max_size=200))
def test_ordinary_subjects_stay_as_they_are(subject: str) -> None:
    if "=?" not in subject:
        assert composed(a_mail(subject=subject))["Subject"] == subject


@given(text=st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=2000))
@example(text="a" * 5000)
@example(text="--=_" + "0" * 32)
@example(text="From here on\n.\n\n.")
def test_the_text_arrives_as_it_was_written(text: str) -> None:
    assert body(composed(a_mail(text=text)), "plain").rstrip("\n") == text.rstrip("\n")


def test_a_domain_in_another_script_is_written_as_mail_systems_know_it() -> None:
    assert composed(a_mail(address="ada@münchen.example"))["To"].addresses[0].domain == "xn--mnchen-3ya.example"


@pytest.mark.parametrize(
    "address",
    [
        "",
        "ada",
        "ada@",
        "@example.com",
        "ada@example.com\r\nBcc: evil@example.com",
        "ada@example.com\n",
        "ada@example.com, evil@example.com",
        "ada <ada@example.com>",
        "ada@exa mple.com",
        "a@b@c",
        "jürgen@example.com",
        "ada@example.com\x00",
        "ada@" + "ü" * 100 + ".com",
    ],
)
async def test_an_address_that_makes_no_header_is_refused_for_good_and_named(address: str, tmp_path: Path) -> None:
    with pytest.raises(NotSent, match="must be") as caught:
        await EmlMailer(tmp_path).send(a_mail(address=address), KEY)
    assert caught.value.permanent
    assert repr(address) in str(caught.value)
    assert not files(tmp_path)


async def test_it_has_the_headers_by_which_one_unsubscribes_as_by_smtp(tmp_path: Path) -> None:
    mailer = EmlMailer(tmp_path, unsubscribe=lambda mail: f"https://example.org/{mail.user_id}")
    await mailer.send(a_mail(), KEY)
    message = parsed(files(tmp_path)[f"{KEY}.eml"])
    assert message["List-Unsubscribe"] == "<https://example.org/ada>"
    assert message["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"


async def test_a_url_that_makes_no_header_is_told_and_nothing_is_written(tmp_path: Path) -> None:
    mailer = EmlMailer(tmp_path / "out", unsubscribe=lambda mail: "http://example.org")
    with pytest.raises(NotSent, match=r"the mail to user 'ada' could not be written: .*must be an https URL"):
        await mailer.send(a_mail(), KEY)
    assert not (tmp_path / "out").exists()


def test_everything_that_is_wrong_with_a_mailer_is_named_at_once(tmp_path: Path) -> None:
    wrong: Any = "x"
    with pytest.raises(
        ValueError, match=r"sender='': .*; unsubscribe='x': must be .* or None; idempotent='x': must be"
    ):
        EmlMailer(tmp_path, sender="", unsubscribe=wrong, idempotent=wrong)


def test_a_folder_that_another_program_empties_is_not_idempotent(tmp_path: Path) -> None:
    assert EmlMailer(tmp_path).idempotent
    assert not EmlMailer(tmp_path, idempotent=False).idempotent


@pytest.mark.parametrize(
    "sender", ["", "briefs", "<>", "a@b, c@d", "a@b c@d", "X <a@b> y", "jü@b", "a@b\r\nBcc: c@d", "a@b\n"]
)
def test_a_sender_that_is_no_single_address_is_refused_at_once(sender: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must be one address") as caught:
        EmlMailer(tmp_path, sender=sender)
    assert repr(sender) in str(caught.value)


async def test_a_file_in_the_folders_place_is_surely_not_sent_and_named(tmp_path: Path) -> None:
    (tmp_path / "outbox").write_text("mine")
    with pytest.raises(NotSent, match="a file stands where the folder should be") as caught:
        await EmlMailer(tmp_path / "outbox").send(a_mail(), KEY)
    assert not caught.value.permanent
    assert str(tmp_path / "outbox") in str(caught.value)
    assert (tmp_path / "outbox").read_text() == "mine"


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="permissions do not bind this user")
async def test_a_folder_without_permission_is_surely_not_sent_and_named(tmp_path: Path) -> None:
    (tmp_path / "outbox").mkdir(mode=0o500)
    with pytest.raises(NotSent, match="see that this process may write there") as caught:
        await EmlMailer(tmp_path / "outbox").send(a_mail(), KEY)
    assert str(tmp_path / "outbox") in str(caught.value)


@pytest.mark.parametrize("step", ["fsync", "replace"])
async def test_a_full_disk_is_surely_not_sent_and_leaves_nothing(
    step: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*args: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, step, full)
        with pytest.raises(NotSent, match=r"No space left on device\); free some disk space"):
            await EmlMailer(tmp_path).send(a_mail(), KEY)
    assert not files(tmp_path)
    await EmlMailer(tmp_path).send(a_mail(), KEY)
    assert len(files(tmp_path)) == 1


KILLED = """
import os, sys, anyio
sys.path[:0] = [{tests!r}]
from test_eml import KEY, EmlMailer, a_mail

def block(*args):
    print("written", flush=True)
    sys.stdin.read()

os.replace = block
anyio.run(EmlMailer({folder!r}).send, a_mail(), KEY)
"""


def test_a_process_killed_before_the_rename_leaves_no_mail(tmp_path: Path) -> None:
    script = KILLED.format(tests=str(Path(__file__).parent), folder=str(tmp_path))
    with subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline().strip() == b"written"
        child.kill()
    if os.name != "nt":
        assert child.returncode == -signal.SIGKILL
    (leftover,) = tmp_path.iterdir()
    assert leftover.name.startswith(".")
    assert leftover.name.endswith(".tmp")

    anyio.run(EmlMailer(tmp_path).send, a_mail(), KEY)
    assert sorted(files(tmp_path)) == sorted([leftover.name, f"{KEY}.eml"])


async def test_cancelling_waits_for_the_thread_so_the_file_is_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.replace
    scopes: list[anyio.CancelScope] = []

    def cancel_then_replace(source: str, target: str) -> None:
        anyio.from_thread.run_sync(scopes[0].cancel)
        real(source, target)

    monkeypatch.setattr(os, "replace", cancel_then_replace)
    with anyio.CancelScope() as scope:
        scopes.append(scope)
        await EmlMailer(tmp_path).send(a_mail(), KEY)
    assert list(files(tmp_path)) == [f"{KEY}.eml"]


@pytest.mark.parametrize("domain", ["fa\u00df.example", "x\u200dy.example", "x\u200cy.example", "\u03c3\u03c2.example"])
def test_a_domain_that_would_become_another_one_is_refused(domain: str) -> None:
    with pytest.raises(ValueError, match="must have its domain in ASCII"):
        one_address(f"ada@{domain}")
    assert one_address("ada@xn--fa-hia.example").domain == "xn--fa-hia.example"
