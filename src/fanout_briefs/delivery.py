"""Sends the mail of a saved brief, as a job of its own, so that a slow mail server never delays a brief.

A mail leaves at most once unless the mailer is idempotent: ``sending`` is recorded before the mailer is
called, and whoever finds that record under an expired lease calls the outcome unknown.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from datetime import timedelta

import anyio

from fanout_briefs.arguments import answered
from fanout_briefs.encoding import decode_mail, encode_mail
from fanout_briefs.errors import NotSent, PermanentFailure, RetryLater
from fanout_briefs.model import Brief, Claim, Finish, FollowUp, Job, JobStatus, Mail, Recipient, SkipReason
from fanout_briefs.ports import Mailer, Recipients

__all__ = ["SENDING", "Delivery", "mail_job", "mail_type"]

SENDING = "sending"
"""The progress step that says the mailer has been called."""


def mail_type(name: str) -> str:
    """The job type of a brief's mail; it holds the brief's name, so that two briefs a day are two mails."""
    return f"generate_brief_email.{name}"


def mail_job(job: Job, brief: Brief) -> FollowUp:
    """The job that sends a brief, not before its time, with the bytes it was rendered to."""
    mail = Job(
        type=mail_type(job.type),
        user_id=job.user_id,
        occurrence=job.occurrence,
        run_at=job.occurrence.deliver_at,
        window=job.window,
        epoch=job.epoch,
        demand=job.demand,
    )
    # The key goes with the content: it stays when the mail's own slot is tried again by hand.
    key = f"{job.dedup_key}:{job.epoch}"
    return FollowUp(mail, encode_mail(brief.rendered, key))


class Delivery:
    """Sends mails through a host's mailer to where its recipients are now.

    Args:
        recipients: Where mail goes.
        mailer: Sends it.
        timeout: How long reading the recipient, and then sending, may take each.
    """

    def __init__(self, recipients: Recipients, mailer: Mailer, timeout: timedelta) -> None:
        self._recipients = recipients
        self._mailer = mailer
        self._timeout = timeout.total_seconds()

    def is_unsettled(self, job: Job) -> bool:
        """Whether an earlier attempt called the mailer and never came back, so that sending again could send twice."""
        called = job.progress is not None and job.progress.step == SENDING
        return called and not self._mailer.idempotent

    async def deliver(self, claim: Claim, record_sending: Callable[[], Awaitable[None]]) -> Finish:
        """Send one mail.

        Args:
            claim: A mail job.
            record_sending: Commits ``sending`` under the claim's token; raises if the claim is lost.

        Returns:
            How the job ends: completed with the receipt's reference, skipped, failed or unknown.

        Raises:
            NotSent: The mail has not left and may be tried again.
            RetryLater: Likewise, after that time.
            Exception: What reading the recipient raised; the mail has not left.
        """
        job = claim.job
        with self._in_time("reading the recipient"):
            found = await self._recipients.get([job.user_id])
        recipient = answered("recipients.get", found, Recipient).get(job.user_id)
        if recipient is None:
            return Finish(status=JobStatus.SKIPPED, code=SkipReason.UNREACHABLE)
        if recipient.opted_out:
            return Finish(status=JobStatus.SKIPPED, code=SkipReason.OPTED_OUT)
        if claim.payload is None:
            return Finish(status=JobStatus.FAILED, error="the outbox holds no rendered mail for this job")
        rendered, key = decode_mail(claim.payload)
        await record_sending()
        return await self._send(Mail(recipient, rendered, job.user_id, job.occurrence), key)

    async def _send(self, mail: Mail, key: str) -> Finish:
        try:
            with self._in_time("sending"):
                receipt = await self._mailer.send(mail, key)
        except NotSent as error:
            if error.permanent:
                return Finish(status=JobStatus.FAILED, error=str(error))
            raise
        except PermanentFailure as error:
            return Finish(status=JobStatus.FAILED, error=str(error))
        except RetryLater:
            raise
        except Exception as error:
            if self._mailer.idempotent:
                raise
            return Finish(status=JobStatus.UNKNOWN, error=f"the mailer failed half-way: {error!r}")
        return Finish(status=JobStatus.COMPLETED, reason=_reference_of(receipt))

    @contextmanager
    def _in_time(self, what: str) -> Generator[None]:
        """Cancel what takes too long; a mailer that never answers must not keep everybody else waiting."""
        with anyio.move_on_after(self._timeout) as scope:
            yield
        if scope.cancelled_caught:
            raise TimeoutError(f"{what} took longer than {self._timeout:g} s")


def _reference_of(receipt: object) -> str | None:
    """What finds the mail again. Whatever a host's mailer returns or forgets to return, the mail is accepted."""
    try:
        reference: object = getattr(receipt, "reference", None)
        return None if reference is None else str(reference)
    except Exception:
        return None
