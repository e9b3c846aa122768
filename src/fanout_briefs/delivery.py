"""Sends the mail of a saved brief, as a separate job, so that a slow mail server never delays a brief.

A mail leaves at most once unless the mailer is idempotent: ``sending`` is recorded before the mailer is called, and a
worker that finds this record under an expired lease ends the mail as unknown.
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
"""The progress step recorded right before the mailer is called."""


def mail_type(name: str) -> str:
    """Return the job type of a brief's mail; it contains the brief's name, so two briefs a day are two mails."""
    return f"generate_brief_email.{name}"


def mail_job(job: Job, brief: Brief) -> FollowUp:
    """Return the job that sends a brief as it was rendered, not before its delivery time."""
    mail = Job(
        type=mail_type(job.type),
        user_id=job.user_id,
        occurrence=job.occurrence,
        run_at=job.occurrence.deliver_at,
        window=job.window,
        epoch=job.epoch,
        demand=job.demand,
    )
    # The key belongs to the content: it stays the same when a person retries the mail's own slot.
    key = f"{job.dedup_key}:{job.epoch}"
    return FollowUp(mail, encode_mail(brief.rendered, key))


class Delivery:
    """Sends mails through the host's mailer, to the recipients' current addresses.

    Args:
        recipients: Looks up addresses.
        mailer: Sends mails.
        timeout: How long looking up the recipient and sending the mail may each take.
    """

    def __init__(self, recipients: Recipients, mailer: Mailer, timeout: timedelta) -> None:
        self._recipients = recipients
        self._mailer = mailer
        self._timeout = timeout.total_seconds()

    def is_unsettled(self, job: Job) -> bool:
        """Whether an earlier attempt may have called the mailer, so that another attempt could send twice."""
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
            RetryLater: The mail has not left and may be tried again after that time.
            Exception: Looking up the recipient failed, so the mail has not left; or an idempotent mailer failed, so
                it may have left and can be sent again.
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
        """Cancel the block if it takes too long: a mailer that never answers must not block everything else."""
        with anyio.move_on_after(self._timeout) as scope:
            yield
        if scope.cancelled_caught:
            raise TimeoutError(f"{what} took longer than {self._timeout:g} s")


def _reference_of(receipt: object) -> str | None:
    """Return the receipt's reference. Whatever the host's mailer returned, the mail has been accepted."""
    try:
        reference: object = getattr(receipt, "reference", None)
        return None if reference is None else str(reference)
    except Exception:
        return None
