"""The disk is full for a while: nothing is half-written, and when there is room again the same worker goes on."""

from __future__ import annotations

import errno
import subprocess
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from fault_harness import MAILS, Found, Scene, needs_posix, scene, side_by_side

from figures import Tell
from mail_server import MailServer

pytestmark = [pytest.mark.slow, needs_posix]
_SENT = f"SELECT count(*) FROM jobs WHERE type = '{MAILS}' AND status = 'completed'"


@contextmanager
def small_disk(folder: Path) -> Generator[Path]:
    """A file system of its own, with room for a log that SQLite has not yet written back (4 MB)."""
    folder.mkdir(parents=True)
    try:
        mounted = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        pytest.skip("there is no mount")
    if mounted.returncode:
        pytest.skip(f"mounting is not permitted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


@contextmanager
def filled(disk: Path) -> Generator[None]:
    """Fill the disk to its last byte; in the end there is room again."""
    ballast = disk / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (65536, 512, 1):
            with suppress(OSError):
                while file.write(b"x" * size):
                    pass
    with pytest.raises(OSError, match=f"Errno {errno.ENOSPC}"), ballast.open("ab", buffering=0) as file:
        file.write(b"x" * 4096)
    yield
    ballast.unlink()


def told(tell: Tell, found: dict[str, Found]) -> None:
    counts = "; ".join(f"{name}: 36 briefs, {dict(each.counts)}" for name, each in found.items())
    tell(f"disk full, {counts}")


def ended_well(town: Scene) -> Found:
    """All is there in the end, and with files everything was delivered."""
    found = town.judged()
    if town.server is None:
        assert found.counts == {"completed": len(town.users)}
    return found


def test_a_worker_whose_disk_is_full_goes_on_when_there_is_room_again(tmp_path: Path, tell: Tell) -> None:
    def play(what: tuple[str, str]) -> Found:
        full, mailer = what
        folder = tmp_path / "-".join(what)
        with ExitStack() as stack:
            disk = stack.enter_context(small_disk(folder / "disk"))
            server = stack.enter_context(MailServer()) if mailer == "smtp" else None
            place: dict[str, Any] = (
                {"database": str(disk / "briefs.db")} if full == "database" else {"outbox": str(disk / "outbox")}
            )
            town = stack.enter_context(scene(folder, people=36, last=8, server=server, **place))
            worker = town.worker()
            town.until(_SENT, 4)
            with filled(disk):
                before = len(worker.problems)
                worker.complains("disk is full" if full == "database" else "No space left on device", 8, since=before)
            town.settles()
            worker.terminated()
            town.finish_and_idle()
            return ended_well(town)

    plays = [("database", "eml"), ("database", "smtp"), ("outbox", "eml")]
    told(tell, {" ".join(what): found for what, found in zip(plays, side_by_side(play, plays), strict=True)})


def test_a_worker_that_may_not_write_goes_on_when_it_may_again(tmp_path: Path, tell: Tell) -> None:
    """As above, where nothing can be mounted: no file may grow, and none may be written at all."""

    def play(mailer: str) -> Found:
        with ExitStack() as stack:
            server = stack.enter_context(MailServer()) if mailer == "smtp" else None
            town = stack.enter_context(scene(tmp_path / mailer, people=36, last=8, server=server))
            worker = town.worker()
            town.until(_SENT, 4)
            town.hold("mails")
            so_far = len(worker.marks)
            worker.comes_to(lambda: any("send " in line for line in worker.marks[so_far:]), "a mail")
            worker.order("full")
            worker.reaches("full")
            town.let_go("mails")
            before = len(worker.problems)
            worker.complains("the disk failed or is full", 8, since=before)
            worker.order("room")
            town.settles()
            worker.terminated()
            town.finish_and_idle()
            return ended_well(town)

    plays = ["eml", "smtp"]
    told(tell, dict(zip(plays, side_by_side(play, plays), strict=True)))
