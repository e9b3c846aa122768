"""The host's HTTP interface: it stores who wants what and answers from the ledger, and makes no brief itself."""

from __future__ import annotations

import os
import secrets
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import date
from typing import Annotated, Any, Self
from zoneinfo import ZoneInfo

from attrs import asdict
from fastapi import Depends, FastAPI, HTTPException
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, model_validator
from sqlalchemy import select, update

from fanout_briefs import Schedule

from .briefs import briefs
from .database import Session, Task, User, engine, hash_of, new_token


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncGenerator[None]:
    """Hold the storage open while the host lives. Planning and running are left to the engine's workers."""
    async with briefs:
        yield
    await engine.dispose()


app = FastAPI(lifespan=lifespan)


class Preferences(BaseModel):
    """Whether and when a brief is wanted; what makes no schedule is answered with 422, every bad field named."""

    wants_brief: bool = True
    frequency: str = "daily"
    time_of_day: str = "09:00"
    timezone: str = "UTC"

    @model_validator(mode="after")
    def _make_a_schedule(self) -> Self:
        Schedule.parse(self.frequency, self.time_of_day, self.timezone)
        return self


class SignUp(Preferences):
    """A new user."""

    email: str


class NewTask(BaseModel):
    """Something to do in a project."""

    project: str
    title: str


Credentials = Annotated[HTTPAuthorizationCredentials, Depends(HTTPBearer())]


async def _current_user(credentials: Credentials) -> User:
    async with Session() as session:
        user = await session.scalar(select(User).where(User.token_hash == hash_of(credentials.credentials)))
    if user is None:
        raise HTTPException(401, "unknown token")
    return user


async def _admin(credentials: Credentials) -> None:
    if not secrets.compare_digest(credentials.credentials.encode(), os.environ["ADMIN_TOKEN"].encode()):
        raise HTTPException(403, "this is for administrators")


Me = Annotated[User, Depends(_current_user)]
AsAdmin = Depends(_admin)


@app.post("/users", status_code=201)
async def sign_up(new: SignUp) -> dict[str, str]:
    """Take somebody in; the token is shown this once."""
    token = new_token()
    user = User(**new.model_dump(), token_hash=hash_of(token))
    async with Session.begin() as session:
        session.add(user)
    return {"id": user.id, "token": token}


@app.post("/me/tasks", status_code=201)
async def add_task(me: Me, new: NewTask) -> dict[str, int]:
    """Add something to do, which the next brief tells of."""
    task = Task(user_id=me.id, **new.model_dump())
    async with Session.begin() as session:
        session.add(task)
    return {"id": task.id}


@app.put("/me/preferences")
async def prefer(me: Me, wanted: Preferences) -> Preferences:
    """Change whether and when. A brief that is queued already is judged again before it is made and sent."""
    async with Session.begin() as session:
        await session.execute(update(User).where(User.id == me.id).values(**wanted.model_dump()))
    return wanted


@app.get("/me/brief")
async def latest(me: Me) -> dict[str, Any]:
    """The latest brief."""
    brief = await briefs.latest(me.id)
    if brief is None:
        raise HTTPException(404, "there is no brief yet")
    return {"date": brief.occurrence.local_date, **asdict(brief.rendered)}


@app.get("/me/brief/next")
async def next_brief(me: Me) -> dict[str, Any]:
    """When the next brief comes, and how it stands."""
    found = await briefs.next(me.id)
    at = found.occurrence and found.occurrence.deliver_at.astimezone(ZoneInfo(me.timezone))
    return {"date": found.on, "deliver_at": at, "code": found.code}


@app.get("/admin/brief/why", dependencies=[AsAdmin])
async def why(user_id: str, on: date | None = None) -> dict[str, Any]:
    """What became of a user's brief of one date (default: today, where the user is), and why."""
    found = await briefs.explain(user_id, on)
    return {"user_id": found.user_id, "on": found.on, "code": found.code, "stages": [asdict(s) for s in found.stages]}


@app.get("/admin/brief/status", dependencies=[AsAdmin])
async def status() -> dict[str, Any]:
    """How all briefs and mails stand."""
    found = await briefs.status()
    return {"ok": found.ok, **asdict(found)}
