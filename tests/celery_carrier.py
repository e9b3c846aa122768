"""Celery as tests run on it: looked into where its brokers keep messages, its workers started by its own command."""

from __future__ import annotations

import base64
import json
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import redis
from attrs import Factory, field, frozen
from celery import Celery

from fanout_briefs.adapters.celery import CeleryDispatcher
from services import Schema

__all__ = ["CeleryCarrier", "the_app"]

APP = Path(__file__).parent / "engines"
COMMAND = (str(Path(sys.executable).parent / "celery"), "-A", "celery_app")
QUEUE = "fanout_briefs_tests"


def the_app(broker: str, queue: str = QUEUE) -> Celery:
    app = Celery("tests", broker=broker, set_as_current=False)
    app.conf.task_default_queue = queue
    app.conf.task_queue_max_priority = 10
    return app


@frozen
class CeleryCarrier:
    """Celery on a Redis of our own, or on a RabbitMQ that others use too, in which ``queue`` is ours."""

    ledger: Schema
    broker: str
    pool: str
    queue: str = QUEUE
    app: Celery = field(init=False, default=Factory(lambda self: the_app(self.broker, self.queue), takes_self=True))

    @property
    def name(self) -> str:
        return f"celery, {self.pool}"

    @property
    def dispatcher(self) -> CeleryDispatcher:
        return self.with_priorities({})

    def environment(self) -> Mapping[str, str]:
        return {
            "PYTHONPATH": str(APP),
            "CELERY_BROKER": self.broker,
            "CELERY_QUEUE": self.queue,
            "ENGINE_DSN": self.ledger.dsn,
            "ENGINE_SCHEMA": "",
        }

    def install(self) -> None:
        self.redis().flushall()

    def redis(self) -> Any:
        """The server, beside Celery."""
        client: Any = redis.Redis
        return client.from_url(self.broker)

    def waiting(self) -> Sequence[tuple[str, datetime, int]]:
        return sorted(self._waiting())

    def _waiting(self) -> Iterator[tuple[str, datetime, int]]:
        server = self.redis()
        for name in server.keys(f"{self.queue}*"):
            for message in map(json.loads, server.lrange(name, 0, -1)):
                (key,), *_ = json.loads(base64.b64decode(message["body"]))
                eta = message["headers"]["eta"]
                at = datetime.now(UTC) if eta is None else datetime.fromisoformat(eta)
                yield key, at, 9 - message["properties"]["priority"]

    def with_priorities(self, priorities: Mapping[str, int]) -> CeleryDispatcher:
        return CeleryDispatcher(self.app, priorities=priorities)

    def without_tables(self) -> CeleryDispatcher:
        raise NotImplementedError("it has none")

    def worker(self, concurrency: int) -> Sequence[str]:
        at_once = max(concurrency // 5, 1) if self.pool == "prefork" else concurrency  # A process each, which is dear.
        return (
            *(*COMMAND, "worker", f"--pool={self.pool}", f"--concurrency={at_once}", "--loglevel=WARNING"),
            *("--without-gossip", "--without-mingle", f"--hostname={uuid.uuid4()}@%h"),
        )

    def limited(self, briefs: int) -> Sequence[Sequence[str]]:
        self.app.conf.task_routes = {"fanout_briefs.daily_brief": {"queue": f"{self.queue}.briefs"}}
        return [
            (*self.worker(20), f"--concurrency={briefs}", f"--queues={self.queue}.briefs"),
            (*self.worker(20), f"--queues={self.queue}"),
        ]

    def beside(self) -> Sequence[Sequence[str]]:
        return [(*COMMAND, "beat", "--loglevel=WARNING")]

    def bulk(self, keys: Sequence[str]) -> Callable[[], object]:
        def send() -> None:
            producer: Any
            with self.app.producer_pool.acquire(block=True) as producer, producer.batch():
                for key in keys:
                    self.app.send_task("alone", [key], eta=datetime.now(UTC), ignore_result=True, producer=producer)

        return send
