"""Manual operations: retry, cancel, regenerate, generate-now, pause, resume, reconcile, prune, forget."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, NoReturn

import typer

from fanout_briefs.briefs import Briefs
from fanout_briefs.cli import show
from fanout_briefs.cli.exits import do, fail, load_or_exit, log, out
from fanout_briefs.cli.options import GRACE, App, Json, KnownUser, On, Since, duration, good_user, written
from fanout_briefs.cli.signals import Stop
from fanout_briefs.explain import Explanation
from fanout_briefs.model import Brief, Job, JobStatus
from fanout_briefs.runs import Reconciled

__all__ = ["cancel", "forget", "generate_now", "pause", "prune", "reconcile", "regenerate", "resume", "retry"]

_DAY = timedelta(days=1)
_MAYBE_DELIVERED = "may have been delivered already; whoever got it gets it twice, unless the mailer honours its key"

Resend = Annotated[bool, typer.Option("--resend", help="Mail it again even if it was mailed before.")]


# of one user ---------------------------------------------------------------------------------------------


def retry(  # noqa: PLR0917 - the command line passes them by name
    application: App,
    user: Annotated[
        str | None,
        typer.Argument(metavar="USER", help="The user's id; otherwise --failed, --unknown.", callback=good_user),
    ] = None,
    on: On = None,
    failed: Annotated[bool, typer.Option("--failed", help="Everybody's that failed.")] = False,
    unknown: Annotated[
        bool, typer.Option("--unknown", help="Everybody's mails that may or may not have been delivered.")
    ] = False,
    since: Since = None,
    json: Json = False,
) -> None:
    """Have a brief tried again, or all that failed. The next run makes it."""
    _refuse_unclear(user, on, since, everybody=failed or unknown)
    briefs = load_or_exit(application)
    if user is None:
        statuses = [JobStatus.FAILED] * failed + [JobStatus.UNKNOWN] * unknown
        _retry_all(briefs, application, statuses, since or _DAY, json=json)
        return

    async def retried() -> tuple[Explanation, Explanation, bool]:
        async with briefs:
            now = datetime.now(UTC)
            before = await briefs.explain(user, on, now=now)
            done = await briefs.retry(user, before.on, now=now)
            return before, await briefs.explain(user, before.on, now=now), done

    before, after, done = do(retried)
    if not done:
        _nothing(application, before, "there is nothing to be tried again", json=json, data={"retried": 0})
    is_mail = _epoch(before.job) == _epoch(after.job)
    what, slot = ("mail", before.mail) if is_mail else ("brief", before.job)
    was = "" if slot is None else f", which was {slot.status},"
    told = f"the {what} of {user} for {after.on}{was} is queued again"
    _tell(told, {"retried": 1}, json=json, then=_run(application))
    if is_mail and slot is not None and slot.status is JobStatus.UNKNOWN:
        show.line(log, "Warning", f"that mail {_MAYBE_DELIVERED}", "yellow")


def _epoch(slot: Job | None) -> int:
    return 0 if slot is None else slot.epoch


def _refuse_unclear(user: str | None, on: date | None, since: timedelta | None, *, everybody: bool) -> None:
    if user is None and not everybody:
        raise typer.BadParameter("say what to try again: a USER, --failed, --unknown, or --failed --unknown")
    if user is not None and everybody:
        raise typer.BadParameter("--failed and --unknown are for everybody: leave them out, or leave out the USER")
    if user is not None and since is not None:
        raise typer.BadParameter("--since is for --failed and --unknown: name the USER's date by --on")
    if user is None and on is not None:
        raise typer.BadParameter("--on is for one USER: for everybody say --since")


def _retry_all(
    briefs: Briefs, application: str, statuses: Sequence[JobStatus], since: timedelta, *, json: bool
) -> None:
    async def retried() -> Mapping[JobStatus, int]:
        async with briefs:
            now = datetime.now(UTC)
            return {status: await briefs.retry_all(since=since, statuses=[status], now=now) for status in statuses}

    counts = do(retried)
    total = sum(counts.values())
    data: dict[str, object] = {"retried": total, **{status.value: count for status, count in counts.items()}}
    if not total:
        none = f"nothing is {' or '.join(statuses)} of what was to be delivered in the last {written(since)}"
        _tell(none, data, json=json, label="Nothing")
        return
    told = f"{_slots(total)} {_is(total)} queued again: {show.counts(counts)}"
    _tell(told, data, json=json, then=_run(application))
    if counts.get(JobStatus.UNKNOWN):
        show.line(log, "Warning", f"a mail that was unknown {_MAYBE_DELIVERED}", "yellow")


def cancel(application: App, user: KnownUser, on: On = None, json: Json = False) -> None:
    """Withdraw a brief or mail that has not been started. No plan takes it up again."""
    briefs = load_or_exit(application)

    async def cancelled() -> tuple[Explanation, bool]:
        async with briefs:
            now = datetime.now(UTC)
            before = await briefs.explain(user, on, now=now)
            return before, await briefs.cancel(user, before.on, now=now)

    before, done = do(cancelled)
    if not done:
        _nothing(application, before, "there is nothing to withdraw", json=json, data={"cancelled": False})
    is_mail = before.job is not None and before.job.status is JobStatus.COMPLETED
    what = "mail" if is_mail else "brief"
    undo = f"to undo that: fanout-briefs retry {_app(application)} --on {before.on} {_user(user)}"
    _tell(f"the {what} of {user} for {before.on} is withdrawn", {"cancelled": True}, json=json, then=undo)


def regenerate(application: App, user: KnownUser, on: On = None, resend: Resend = False, json: Json = False) -> None:
    """Have a finished brief generated again. The next run does so, for the same span of time."""
    briefs = load_or_exit(application)

    async def regenerated() -> tuple[Explanation, bool]:
        async with briefs:
            now = datetime.now(UTC)
            before = await briefs.explain(user, on, now=now)
            return before, await briefs.regenerate(user, before.on, resend=resend, now=now)

    before, done = do(regenerated)
    if not done:
        why = "there is no finished brief to make again"
        _nothing(application, before, why, json=json, data={"regenerated": False})
    mailed = "and mailed again" if resend else "and not mailed again if it was mailed"
    told = f"the brief of {user} for {before.on} is queued to be made again, {mailed}"
    _tell(told, {"regenerated": True}, json=json, then=_run(application))


def generate_now(application: App, user: KnownUser, resend: Resend = False, json: Json = False) -> None:
    """Generate a user's brief of today at once. It is saved and printed; the next run mails it."""
    briefs = load_or_exit(application)

    async def generated() -> tuple[Brief | None, Explanation | None, int]:
        made: Brief | None = None
        told: Explanation | None = None
        async with briefs, Stop(GRACE) as stop:
            made = await briefs.generate_now(user, resend=resend)
            told = None if made is None else await briefs.explain(user, made.occurrence.local_date)
        return made, told, stop.status

    made, told, stopped = do(generated)
    if stopped and made is None:
        fail("stopped before the brief was made; it was given back, and the next run makes it", stopped)
    if json:
        show.text(out, show.as_json({"brief": made}))
    else:
        show.brief(out, made)
    if made is not None:
        show.failed_sections(log, made)
    if told is not None and told.mail is not None:
        show.line(log, "Mail", _mail(application, told.mail.status))
    if stopped:
        raise typer.Exit(stopped)


def _mail(application: str, status: JobStatus) -> str:
    if status is JobStatus.PENDING:
        return f"is queued; {_run(application)}"
    return f"is {status} since before, and is left so; --resend mails it again"


def forget(
    application: App,
    user: KnownUser,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Erase everything that is stored about a user. It cannot be undone."""
    briefs = load_or_exit(application)
    if not yes:
        _ask(user)

    async def forgotten() -> int:
        async with briefs:
            return await briefs.forget(user)

    count = do(forgotten)
    if not count:
        _no(f"nothing is stored about {user}: check the id", {"erased": 0}, json=json)
    rows = "1 row" if count == 1 else f"{count:,} rows"
    again = "plans queue new briefs for as long as the host's preferences name that user"
    _tell(f"{rows} about {user} {_was(count)} erased", {"erased": count}, json=json, then=again)


def _ask(user: str) -> None:
    if not sys.stdin.isatty():
        fail("nobody can be asked, since this is no terminal: say --yes to erase without being asked")
    question = f"Erase every slot, brief and mail of {user!r}, of every kind of brief in this storage, for good?"
    if not typer.confirm(question, err=True):
        fail("nothing was erased", 1)


# of everybody --------------------------------------------------------------------------------------------


def pause(application: App, json: Json = False) -> None:
    """Start nothing more, in any process. What is running finishes."""
    briefs = load_or_exit(application)

    async def paused() -> bool:
        async with briefs:
            return await briefs.pause()

    changed = do(paused)
    resumed = f"nothing is begun until: fanout-briefs resume {_app(application)}"
    if changed:
        _tell(f"{briefs.name} is paused; what runs is finished", {"paused": True}, json=json, then=resumed)
    else:
        _tell(f"{briefs.name} was paused already", {"paused": False}, json=json, label="Nothing", then=resumed)


def resume(application: App, json: Json = False) -> None:
    """End a pause. What it held back is caught up on as after an outage."""
    briefs = load_or_exit(application)

    async def resumed() -> int | None:
        async with briefs:
            return await briefs.resume()

    count = do(resumed)
    if count is None:
        _tell(f"{briefs.name} was not paused", {"resumed": None}, json=json, label="Nothing")
    else:
        queued = f"; {_slots(count)} of the time it lasted {_is(count)} queued" if count else ""
        _tell(f"{briefs.name} goes on{queued}", {"resumed": count}, json=json, then=_run(application))


def reconcile(application: App, json: Json = False) -> None:
    """Repair what dead workers left behind. Nothing is run."""
    briefs = load_or_exit(application)

    async def reconciled() -> Reconciled:
        async with briefs:
            return await briefs.reconcile()

    found = do(reconciled)
    counts = show.counts({"put back": found.returned, "unknown": found.unknown, "failed": found.failed})
    told = [f"of what dead workers left, {counts}"] if counts else []
    told += [f"handed to the engine again: {found.dispatched:,}"] if found.dispatched else []
    if not told:
        _tell("no dead worker has left anything", {"reconciled": found}, json=json, label="Nothing")
        return
    then = _run(application) if found.ok else f"fanout-briefs status {_app(application)}"
    _tell("; ".join(told), {"reconciled": found}, json=json, then=then)
    if not found.ok:
        raise typer.Exit(1)


def prune(
    application: App,
    older_than: Annotated[
        timedelta,
        typer.Option(
            parser=duration, metavar="TIME", help="Erase what was to be delivered longer ago than this, such as 400d."
        ),
    ],
    json: Json = False,
) -> None:
    """Erase old briefs and mails. What has not ended stays, and so does each user's latest."""
    briefs = load_or_exit(application)

    async def pruned() -> int | ValueError:
        async with briefs:
            try:
                return await briefs.prune(older_than)
            except ValueError as error:
                return error

    count = do(pruned)
    if isinstance(count, ValueError):
        raise typer.BadParameter(str(count))
    if count:
        _tell(f"{_slots(count)} older than {written(older_than)} {_was(count)} erased", {"erased": count}, json=json)
    else:
        none = f"nothing that may be erased is older than {written(older_than)}"
        _tell(none, {"erased": 0}, json=json, label="Nothing")


# what is told --------------------------------------------------------------------------------------------


def _tell(told: str, data: Mapping[str, object], *, json: bool, label: str = "Done", then: str | None = None) -> None:
    """Print what happened and what to do next; or print the data as JSON."""
    if json:
        show.text(out, show.as_json(data))
        return
    show.line(out, label, told)
    if then is not None:
        show.line(out, "Next", then)


def _nothing(application: str, found: Explanation, what: str, *, json: bool, data: Mapping[str, object]) -> NoReturn:
    """Say that nothing was changed and how to find out why, and exit."""
    code = found.code.replace("_", " ")
    told = f"fanout-briefs explain {_app(application)} --on {found.on} {_user(found.user_id)}"
    _no(f"{what}: {found.user_id} on {found.on} is {code}; {told} tells more", data, json=json)


def _no(told: str, data: Mapping[str, object], *, json: bool) -> NoReturn:
    if json:
        show.text(out, show.as_json(data))
    fail(told, 1)


def _run(application: str) -> str:
    return f"a worker takes that up, or: fanout-briefs run {_app(application)}"


def _app(application: str) -> str:
    return shlex.quote(application)


def _user(user_id: str) -> str:
    """Quote the id as the last argument of a command; an id that looks like an option needs ``--`` before it."""
    return f"{'-- ' if user_id.startswith('-') else ''}{shlex.quote(user_id)}"


def _slots(count: int) -> str:
    return "1 slot" if count == 1 else f"{count:,} slots"


def _is(count: int) -> str:
    return "is" if count == 1 else "are"


def _was(count: int) -> str:
    return "was" if count == 1 else "were"
