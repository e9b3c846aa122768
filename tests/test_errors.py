"""What the exceptions say: the value, the reason, and what to do."""

from __future__ import annotations

import pickle

import pytest
from fastapi.encoders import jsonable_encoder

from fanout_briefs.errors import (
    BadValue,
    InvalidPreferences,
    InvalidSchedule,
    ItemCancelled,
    NotSent,
    RetryLater,
    SchemaTooNew,
    SourceError,
    StorageUnavailable,
    UnknownUser,
)

BAD_ZONE = BadValue("timezone", "Mars/Olympus", "must be an IANA zone")
BAD_TIME = BadValue("time_of_day", "25:00", "must be HH:MM", user_id="ada")


def test_a_bad_value_is_told_with_its_reason() -> None:
    assert str(BAD_ZONE) == "timezone='Mars/Olympus': must be an IANA zone"


def test_a_schedule_refused_in_a_model_of_fastapis_can_be_answered_with_every_bad_field() -> None:
    told = jsonable_encoder({"error": InvalidSchedule([BAD_ZONE])})
    fields = {"field": "timezone", "value": "Mars/Olympus", "reason": "must be an IANA zone", "user_id": None}
    assert told == {"error": {"problems": [fields]}}


def test_a_bad_value_says_whose_it_is() -> None:
    assert str(BAD_TIME) == "time_of_day of user 'ada'='25:00': must be HH:MM"


@pytest.mark.parametrize(("length", "is_cut"), [(78, False), (79, True)])
def test_a_long_value_is_cut(length: int, is_cut: bool) -> None:
    shown = str(BadValue("timezone", "x" * length, "too long")).removesuffix(": too long").removeprefix("timezone=")
    assert len(shown) == 80
    assert ("..." in shown) is is_cut


def test_a_value_that_cannot_be_shown_is_told_by_its_type() -> None:
    assert "int" in str(BadValue("day_of_week", 10**5000, "must be 0 to 6"))


def test_an_invalid_schedule_names_every_bad_field() -> None:
    error = InvalidSchedule([BAD_ZONE, BAD_TIME])
    assert error.problems == (BAD_ZONE, BAD_TIME)
    assert str(error) == f"{BAD_ZONE}; {BAD_TIME}"


def test_invalid_preferences_name_every_bad_value_on_a_line_of_its_own() -> None:
    error = InvalidPreferences([BAD_ZONE, BAD_TIME])
    assert error.problems == (BAD_ZONE, BAD_TIME)
    assert str(error) == f"2 bad values, so nothing was stored; mend and store again:\n  {BAD_ZONE}\n  {BAD_TIME}"


def test_one_bad_value_is_one() -> None:
    assert str(InvalidPreferences([BAD_ZONE])).startswith("1 bad value, so")


def test_bad_input_is_a_value_error() -> None:
    assert issubclass(InvalidSchedule, ValueError)
    assert issubclass(InvalidPreferences, ValueError)


def test_an_item_that_was_cancelled_from_within_says_so() -> None:
    assert "cancelled from within" in str(ItemCancelled())


def test_a_source_error_holds_the_outcomes() -> None:
    error = SourceError(["first", "second"])
    assert error.outcomes == ("first", "second")
    assert ".outcomes" in str(error)
    assert "2" in str(error)
    assert SourceError().outcomes == ()


def test_a_newer_schema_says_which_and_what_to_do() -> None:
    error = SchemaTooNew("briefs.db", 7, 3)
    assert isinstance(error, StorageUnavailable)
    assert (error.place, error.found, error.supported) == ("briefs.db", 7, 3)
    assert str(error) == "briefs.db has schema version 7, and this release knows up to 3: upgrade fanout-briefs"


def test_an_unknown_user_is_named() -> None:
    error = UnknownUser("ada")
    assert error.user_id == "ada"
    assert "no preference is known for user 'ada'" in str(error)


@pytest.mark.parametrize("seconds", [0, 0.5, 90, float("inf")])
def test_retry_later_takes_any_wait(seconds: float) -> None:
    error = RetryLater(seconds)
    assert error.seconds == seconds
    assert str(error) == f"asked to retry later, in {seconds:g} s"
    assert str(RetryLater(seconds, "rate limited")) == "rate limited"


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("-inf")])
def test_retry_later_refuses_what_is_no_wait(seconds: float) -> None:
    with pytest.raises(ValueError, match=r"seconds=.*must be zero or more"):
        RetryLater(seconds)


def test_a_mail_that_was_not_sent_may_be_tried_again_unless_it_is_said_otherwise() -> None:
    assert not NotSent("mailbox full").permanent
    assert NotSent("no such address", permanent=True).permanent


def test_a_bad_value_can_be_pickled() -> None:
    assert pickle.loads(pickle.dumps(BAD_TIME)) == BAD_TIME
