"""What has a port's methods is the port, and what lacks one, is synchronous or answers otherwise is refused.

Read by type checkers; nobody runs it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime

from attrs import frozen

from fanout_briefs import (
    Activity,
    DispatcherPowers,
    EngagementDecision,
    EngagementPolicy,
    JobRef,
    Mail,
    Page,
    Preference,
    Project,
    ProjectBrief,
    Receipt,
    Recipient,
    SectionRequest,
    Window,
)
from fanout_briefs.model import Scheduled, ScheduleFields
from fanout_briefs.ports import (
    CancellingDispatcher,
    Dispatcher,
    Engagement,
    Generator,
    Mailer,
    Preferences,
    Projects,
    Recipients,
    ScheduleIndex,
)


class Users:
    async def page(self, cursor: str | None, limit: int) -> Page[Preference]:
        return Page([Preference(user_id="ann")])

    async def get(self, user_ids: Collection[str]) -> dict[str, Preference]:
        return {}


class UsersBySchedule(Users):
    schedule_index = True

    async def schedules(self) -> Mapping[str, ScheduleFields]:
        return {"9": ScheduleFields(time_of_day="09:00")}

    async def page_for(self, schedules: Collection[str], cursor: str | None, limit: int) -> Page[Scheduled]:
        return Page([Scheduled("ann", "9")])


def with_both_methods_it_is_preferences() -> tuple[Preferences, Preferences, ScheduleIndex]:
    return Users(), UsersBySchedule(), UsersBySchedule()


class UsersOnOnePage(Users):
    async def page(self, cursor: str | None, limit: int) -> list[Preference]:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        return []


class UsersByOne(Users):
    async def get(self, user_ids: str) -> dict[str, Preference]:  # type: ignore[override]  # pyright: ignore[reportIncompatibleMethodOverride]
        return {}


class UsersAtOnce:
    def page(self, cursor: str | None, limit: int) -> Page[Preference]:
        return Page([])

    def get(self, user_ids: Collection[str]) -> dict[str, Preference]:
        return {}


class OnlyAPage:
    page = Users.page


def otherwise_it_is_none(take: Callable[[Preferences], object]) -> None:
    take(UsersOnOnePage())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    take(UsersByOne())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    take(UsersAtOnce())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    take(OnlyAPage())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def users_are_not_indexed_by_themselves() -> ScheduleIndex:
    return Users()  # type: ignore[return-value]  # pyright: ignore[reportReturnType]


class Lists:
    async def of(self, user_id: str, window: Window) -> tuple[Project, ...]:
        return (Project("1", "Aurora", data=window),)


class ListsOfNames:
    async def of(self, user_id: str, window: Window) -> list[str]:
        return ["Aurora"]


class ListsAtOnce:
    def of(self, user_id: str, window: Window) -> list[Project]:
        return []


class ListsOfAllTimes:
    async def of(self, user_id: str) -> list[Project]:
        return []


def with_its_method_it_is_projects() -> Projects:
    return Lists()


def otherwise_it_is_no_projects(take: Callable[[Projects], object]) -> None:
    take(ListsOfNames())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    take(ListsAtOnce())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    take(ListsOfAllTimes())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    take(object())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


class AlwaysSomething:
    async def generate(self, request: SectionRequest) -> ProjectBrief:
        return ProjectBrief(request.project.name)


class JustText:
    async def generate(self, request: SectionRequest) -> str:
        return request.project.name


class TextAtOnce:
    def generate(self, request: SectionRequest) -> ProjectBrief | None:
        return None


class OfAProject:
    async def generate(self, request: Project) -> ProjectBrief | None:
        return None


def with_its_method_it_is_a_generator() -> Generator:
    return AlwaysSomething()


def otherwise_it_is_no_generator(take: Callable[[Generator], object]) -> None:
    take(JustText())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    take(TextAtOnce())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    take(OfAProject())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    take(Lists())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


class Visits:
    async def last_visits(self, user_ids: Collection[str]) -> dict[str, datetime | None]:
        return dict.fromkeys(user_ids)


class DaysAway:
    async def last_visits(self, user_ids: Collection[str]) -> Mapping[str, int]:
        return dict.fromkeys(user_ids, 3)


class VisitsAtOnce:
    def last_visits(self, user_ids: Collection[str]) -> dict[str, datetime | None]:
        return {}


def with_its_method_it_is_an_engagement() -> Engagement:
    return Visits()


def otherwise_it_is_no_engagement(take: Callable[[Engagement], object]) -> None:
    take(DaysAway())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    take(VisitsAtOnce())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    take(Users())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


class Addresses:
    async def get(self, user_ids: Collection[str]) -> dict[str, Recipient]:
        return {}


class JustAddresses:
    async def get(self, user_ids: Collection[str]) -> dict[str, str]:
        return {}


class AddressesAtOnce:
    def get(self, user_ids: Collection[str]) -> dict[str, Recipient]:
        return {}


def with_its_method_it_is_recipients() -> Recipients:
    return Addresses()


def otherwise_it_is_no_recipients(take: Callable[[Recipients], object]) -> None:
    take(JustAddresses())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    take(AddressesAtOnce())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    take(Users())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # has a method of that name


class Post:
    idempotent = False

    async def send(self, mail: Mail, key: str) -> Receipt:
        return Receipt(key)


class PostThatKnows:
    @property
    def idempotent(self) -> bool:
        return True

    async def send(self, mail: Mail, key: str) -> Receipt:
        return Receipt(key)


class PostAtOnce:
    idempotent = False

    def send(self, mail: Mail, key: str) -> Receipt:
        return Receipt(key)


class PostWithoutReceipt:
    idempotent = False

    async def send(self, mail: Mail, key: str) -> None: ...


class PostWithoutPromise:
    send = Post.send


class PostThatIsAsked:
    send = Post.send

    def idempotent(self) -> bool:
        return True


def with_promise_and_method_it_is_a_mailer() -> Sequence[Mailer]:
    return [Post(), PostThatKnows()]


def otherwise_it_is_no_mailer(take: Callable[[Mailer], object]) -> None:
    take(PostAtOnce())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    take(PostWithoutReceipt())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    take(PostWithoutPromise())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    take(PostThatIsAsked())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


class Queue:
    powers = DispatcherPowers(cancels=True)

    async def dispatch(self, jobs: Sequence[JobRef]) -> None: ...
    async def cancel(self, jobs: Sequence[JobRef]) -> None: ...


class QueueAtOnce:
    powers = DispatcherPowers()

    def dispatch(self, jobs: Sequence[JobRef]) -> None: ...


class QueueWithoutPowers:
    dispatch = Queue.dispatch


class QueueOfKeys:
    powers = DispatcherPowers()

    async def dispatch(self, jobs: Sequence[str]) -> None: ...


class QueueThatKeeps:
    powers = DispatcherPowers(cancels=True)
    dispatch = Queue.dispatch


def with_powers_and_method_it_is_a_dispatcher() -> tuple[Dispatcher, Dispatcher, CancellingDispatcher]:
    return Queue(), QueueThatKeeps(), Queue()


def otherwise_it_is_no_dispatcher(take: Callable[[Dispatcher], object]) -> None:
    take(QueueAtOnce())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    take(QueueWithoutPowers())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    take(QueueOfKeys())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def it_cancels_only_by_its_method() -> CancellingDispatcher:
    return QueueThatKeeps()  # type: ignore[return-value]  # pyright: ignore[reportReturnType]


class Always:
    def decide(self, activity: Activity, at: datetime) -> EngagementDecision:
        return EngagementDecision(send=True, is_reengagement=False, reason="always")


@frozen
class AlwaysBlindly(Always):
    sends_when_unavailable: bool = True


class YesOrNo:
    def decide(self, activity: Activity, at: datetime) -> bool:
        return True


class InTheEnd:
    async def decide(self, activity: Activity, at: datetime) -> EngagementDecision:
        return EngagementDecision(send=True, is_reengagement=False, reason="always")


def with_its_method_it_is_a_policy() -> Sequence[EngagementPolicy]:
    return [Always(), AlwaysBlindly()]


def otherwise_it_is_no_policy(take: Callable[[EngagementPolicy], object]) -> None:
    take(YesOrNo())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
    take(InTheEnd())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  # it is pure, so nothing is awaited
    take(Visits())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
