"""A Redis of our own that keeps what it is told, and may be killed and started again."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from attrs import define

from services import Missing, free_port, unavailable, until_it_listens


@define
class RedisServer:
    """One server, with an append-only file in its folder."""

    folder: Path
    port: int
    options: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> None:
        binary = shutil.which("redis-server")
        if binary is None:
            raise Missing("there is no redis-server")
        given = ("--bind", "127.0.0.1", "--port", str(self.port), "--save", "", "--appendonly", "yes", *self.options)
        self.process = subprocess.Popen([binary, *given], cwd=self.folder, stdout=subprocess.DEVNULL)
        until_it_listens(self.process, self.port)

    def kill(self) -> None:
        """As the kernel does when memory is short: nothing is written any more."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


@contextmanager
def own_redis(*options: str) -> Generator[RedisServer]:
    """A server that a test may kill; it is gone afterwards."""
    with TemporaryDirectory(prefix="fb-redis-") as folder:
        server = RedisServer(Path(folder), free_port(), options)
        try:
            server.start()
        except Missing as error:
            unavailable(error, "Redis")
        try:
            yield server
        finally:
            server.kill()
