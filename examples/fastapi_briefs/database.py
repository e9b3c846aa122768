"""The host's own tables, and how to reach them."""

from __future__ import annotations

import hashlib
import os
import secrets
from datetime import UTC, datetime
from uuid import uuid4

from sqlalchemy import DateTime, ForeignKey, make_url
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

DSN = os.environ["DATABASE_URL"]
engine = create_async_engine(make_url(DSN).set(drivername="postgresql+psycopg"))
Session = async_sessionmaker(engine, expire_on_commit=False)


class Base(DeclarativeBase):
    """All tables of the host."""


class User(Base):
    """Somebody who signed up; the columns from ``wants_brief`` on say whether and when a brief is wanted."""

    __tablename__ = "users"

    id: Mapped[str] = mapped_column(primary_key=True, default=lambda: uuid4().hex)
    email: Mapped[str]
    token_hash: Mapped[str] = mapped_column(unique=True)
    wants_brief: Mapped[bool] = mapped_column(default=True)
    frequency: Mapped[str] = mapped_column(default="daily")
    time_of_day: Mapped[str] = mapped_column(default="09:00")
    timezone: Mapped[str] = mapped_column(default="UTC")


class Task(Base):
    """Something to do in a project."""

    __tablename__ = "tasks"

    id: Mapped[int] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey(User.id), index=True)
    project: Mapped[str]
    title: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=lambda: datetime.now(UTC))


def new_token() -> str:
    """What a user shows with each request; only its hash is kept."""
    return secrets.token_urlsafe()


def hash_of(token: str) -> str:
    """What is kept of a token."""
    return hashlib.sha256(token.encode()).hexdigest()
