"""One mutant's trial: its tests, in a process forked from one that has everything imported but this library.

Starting Python anew takes several seconds of imports; a fork takes none. No file is changed: the child imports the
mutated text in the file's place.
"""

from __future__ import annotations

import gc
import importlib
import os
import re
import resource
import signal
import sys
import time
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import spec_from_loader
from pathlib import Path
from tempfile import TemporaryFile
from types import CodeType
from typing import IO, Any

import pytest
from attrs import frozen

__all__ = ["NO_TESTS", "Running", "Trial", "Verdict", "preload"]

# How long a child may use no processor at all. What waits for nothing but time is done in virtual time here.
_STILL = 20.0
_LOOK_EVERY = 0.02
NO_TESTS = "no tests"
_PACKAGE = "fanout_briefs"


@frozen
class Verdict:
    """What came of a trial.

    Attributes:
        survived: Whether every test passed.
        by: The test that failed first, or what else ended the trial.
        seconds: The processor time it took.
    """

    survived: bool
    by: str
    seconds: float


@frozen
class Trial:
    """A file of tests, to be run on one changed file at a time.

    Attributes:
        test: A file, from ``root``.
        root: The repository.
        keyword: Which of the tests, as pytest's ``-k`` has it; empty for all.
        most: How many seconds of processor time a trial may take.
    """

    test: str
    root: Path
    keyword: str = ""
    most: int = 600

    def start(self, path: str, code: str) -> Running:
        """Begin to run the tests with ``code`` in the place of the file ``path``."""
        output = TemporaryFile("w+", encoding="utf-8", errors="replace")  # noqa: SIM115  # Running closes it.
        child = os.fork()
        if child == 0:
            self._run_tests(path, code, output)
        return Running(child, output)

    def run(self, path: str, code: str) -> Verdict:
        """As ``start``, to the end."""
        running = self.start(path, code)
        while (verdict := running.verdict()) is None:
            time.sleep(_LOOK_EVERY)
        return verdict

    def _run_tests(self, path: str, code: str, output: IO[str]) -> None:
        result: int = pytest.ExitCode.INTERNAL_ERROR
        try:
            os.setpgid(0, 0)
            resource.setrlimit(resource.RLIMIT_CPU, (self.most, self.most + 5))
            for stream in (1, 2):
                os.dup2(output.fileno(), stream)
            os.chdir(self.root)
            sys.meta_path.insert(0, _Instead(path, code))
            result = pytest.main([*_OPTIONS, *(["-k", self.keyword] if self.keyword else []), self.test])
        finally:
            sys.stdout.flush()
            os._exit(result)


_OPTIONS = [
    "--override-ini=addopts=",  # No processes of pytest's own: a trial is one already.
    *("-x", "-q", "--tb=line", "-p", "no:cacheprovider", "-p", "no:cov", "-p", "no:randomly"),
    # What is imported already is the point here.
    *("-W", "ignore::pytest.PytestAssertRewriteWarning"),
]


class _Instead(MetaPathFinder):
    """Imports one module from a given text."""

    def __init__(self, path: str, code: str) -> None:
        self._name = ".".join(Path(path).with_suffix("").parts[1:])
        self._loader = _Loader(self._name, str(Path(path).absolute()), code)

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        del path, target
        return spec_from_loader(fullname, self._loader) if fullname == self._name else None


class _Loader(SourceFileLoader):
    def __init__(self, name: str, path: str, code: str) -> None:
        super().__init__(name, path)
        self._code = code

    def get_code(self, fullname: str) -> CodeType:
        del fullname
        return compile(self._code, self.path, "exec", dont_inherit=True)


def preload(tests: tuple[str, ...], root: Path) -> None:
    """Import what these tests will import, but for the library and the tests themselves.

    Raises:
        RuntimeError: The tests cannot be collected.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os.chdir(root)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        result = pytest.main([*_OPTIONS, "--collect-only", *tests])
        with os.fdopen(writing, "w") as pipe:
            pipe.write("\n".join(name for name, module in list(sys.modules.items()) if _is_foreign(module, root)))
        os._exit(result)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        names = pipe.read().split()
    if os.waitpid(child, 0)[1] != 0:
        raise RuntimeError(f"tests={tests!r}: cannot be collected; see what pytest says of them")
    for name in names:
        try:
            importlib.import_module(name)
        except ImportError:
            continue  # A module made up at run time; whoever needs it will make it up again.
    gc.collect()
    gc.freeze()  # So that the children's collections do not look at all that again.


def _is_foreign(module: object, root: Path) -> bool:
    file = getattr(module, "__file__", None)
    name = getattr(module, "__name__", _PACKAGE)
    if name.partition(".")[0] in {_PACKAGE, "__main__"}:
        return False
    return file is None or "site-packages" in file or not Path(file).is_relative_to(root)


class Running:
    """A trial under way."""

    def __init__(self, child: int, output: IO[str]) -> None:
        self._child, self._output = child, output
        self._used, self._since = 0.0, time.monotonic()

    def verdict(self) -> Verdict | None:
        """What came of it; None as long as it goes on. Puts an end to one that hangs."""
        ended, status, usage = os.wait4(self._child, os.WNOHANG)
        if ended:
            with self._output as output:
                output.seek(0)
                return _judge(os.waitstatus_to_exitcode(status), usage.ru_utime + usage.ru_stime, output.read())
        used = _processor_time(self._child)
        if used != self._used:
            self._used, self._since = used, time.monotonic()
        elif time.monotonic() - self._since > _STILL:
            os.killpg(self._child, signal.SIGKILL)
        return None

    def stop(self) -> None:
        """Put an end to it, whatever would come of it."""
        os.killpg(self._child, signal.SIGKILL)
        os.waitpid(self._child, 0)
        self._output.close()


def _processor_time(process: int) -> float:
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return -1.0  # It has just ended, or there is no /proc: then only the limit of processor time ends a hung one.
    return float(fields[11]) + float(fields[12])


def _judge(status: int, seconds: float, output: str) -> Verdict:
    if status == pytest.ExitCode.OK:
        return Verdict(True, "", seconds)
    if status == pytest.ExitCode.NO_TESTS_COLLECTED:
        return Verdict(True, NO_TESTS, seconds)
    if status == -signal.SIGKILL:
        return Verdict(False, "hung", seconds)
    if status == -signal.SIGXCPU:
        return Verdict(False, "took too long", seconds)
    if status not in {pytest.ExitCode.TESTS_FAILED, pytest.ExitCode.INTERRUPTED} and status >= 0:
        raise RuntimeError(f"pytest ended with {status}, which says nothing of the mutant:\n{output[-3000:]}")
    first = re.search(r"^(?:FAILED|ERROR) (\S+)", output, re.MULTILINE)
    return Verdict(False, first.group(1) if first else f"pytest ended with {status}", seconds)
