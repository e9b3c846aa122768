"""What the contract kit says of values: enough to tell what they are, and no more."""

from __future__ import annotations

from datetime import timedelta

import pytest

from fanout_briefs.model import Claim, Claims, Enqueued, Finish, FollowUp, JobStatus, Overview, Preference
from fanout_briefs.testing.checks import Broken, same, shown
from fanout_briefs.testing.slots import NOW, brief_of, job


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (NOW, "2026-03-02T08:00:00+00:00"),
        (NOW.replace(tzinfo=None), "2026-03-02T08:00:00"),
        (NOW.date(), "2026-03-02"),
        (timedelta(hours=1), "1:00:00"),
        (Enqueued.CREATED, "Enqueued.CREATED"),
        ("created", "'created'"),
        (Preference(user_id="ann", days=(1,)), "Preference(user_id='ann', days=(1,))"),
        (Overview(ended={JobStatus.FAILED: 1}, codes={}), "Overview(ended={JobStatus.FAILED: 1}, codes={})"),
        (
            Finish(status=JobStatus.COMPLETED, brief=brief_of(job())),
            "Finish(status=JobStatus.COMPLETED, brief=<brief daily:2026-03-02:ann epoch=1>)",
        ),
        (
            FollowUp(job(), b"mail"),
            (
                "FollowUp(job=<daily:2026-03-02:ann pending epoch=1 attempts=0 run_at=2026-03-02T08:00:00.000000+0000>, "
                "payload=b'mail')"
            ),
        ),
    ],
)
def test_a_value_is_shown_without_what_says_nothing(value: object, words: str) -> None:
    assert shown(value) == words


def test_claims_are_shown_by_their_slots() -> None:
    words = shown(Claims([Claim(job=job(), token=7, until=NOW)]))
    assert words.startswith("Claims(claims=[<claim 7 until 2026-03-02 08:00:00+00:00 of <daily:2026-03-02:ann pending ")


def test_what_differs_is_named_by_its_place() -> None:
    with pytest.raises(Broken) as broken:
        same({"ann": job()}, {"ann": job(run_at=NOW + timedelta(hours=1))})
    assert str(broken.value).endswith(
        "where:     ['ann'].run_at is 2026-03-02T08:00:00+00:00, not 2026-03-02T09:00:00+00:00"
    )
