"""What happened in a repository within a window, asked of ``git`` itself; nothing is ever written to it.

Commits count by their committer date, exact to the second, on all local and remote branches and a detached
HEAD. Branches are as they stand when asked: git does not remember how they stood.
"""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import anyio
from attrs import asdict, frozen

from fanout_briefs.model import SectionRequest, Window

from .repositories import Repository

TIMEOUT = 30
"""Seconds that one call of git may take."""
SKEW = timedelta(days=7)
"""How much older than its parents a commit may claim to be and still be looked behind."""
STALE = timedelta(days=30)
MOST_COMMITS = 5000
MOST_DIFFS = 300
_LATEST = "--max-count=5"
SHOWN = 8
"""How many authors, branches, TODOs and files a section lists at most."""


class GitError(Exception):
    """Git failed; the message is the first error line that it wrote."""


@frozen
class Commit:
    """One commit; ``at`` is its committer date in seconds since 1970."""

    sha: str
    at: int
    author: str
    subject: str
    parents: Sequence[str]


@frozen
class Author:
    """Who committed, how often, and the latest subject lines."""

    name: str
    count: int
    subjects: Sequence[str]


@frozen
class Branch:
    """A branch with work of its own, or without work for long; ``days`` since its last commit."""

    name: str
    ahead: int
    days: int
    stale: bool


@frozen
class Todo:
    """A line with TODO or FIXME that the window added, and did not only move."""

    path: str
    line: str


@frozen
class TouchedFile:
    """A file, how many commits touched it, and by how many lines."""

    path: str
    commits: int
    added: int
    removed: int


@frozen(kw_only=True)
class Facts:
    """What the templates see. Lists are cut to ``SHOWN``; the numbers beside them are not.

    Attributes:
        since: Where the window starts, in the person's zone.
        until: Where it ends.
        latest: Where no commit is in the window, the last few: when, by whom, and what.
        main: The default branch's name.
        undiffed: Commits whose changes are not told: too many, or where a shallow clone was cut off.
    """

    since: datetime
    until: datetime
    commits: int
    authors: Sequence[Author]
    author_count: int
    latest: Sequence[tuple[datetime, str, str]]
    main: str
    branches: Sequence[Branch]
    branch_count: int
    todos: Sequence[Todo]
    todo_count: int
    files: Sequence[TouchedFile]
    undiffed: int


async def facts(request: SectionRequest) -> Mapping[str, object] | None:
    """Find out about one repository; None where it has no commit at all.

    Raises:
        GitError: The repository is broken, or git took too long.
    """
    repository = request.project.data
    assert isinstance(repository, Repository)  # noqa: S101 - ProjectsOf gave it.
    git, window, zone = Git(repository), request.window, ZoneInfo(request.timezone)
    tips = await _tips(git)
    head = (await git.run("rev-parse", "--verify", "--quiet", "HEAD", may_fail=True)).decode().split()
    if not tips and not head:
        await git.run("log", "--branches", "--remotes", "--max-count=1")  # Tells broken references from none at all.
        return None
    commits = await _commits(git, head, window)
    latest: Sequence[Commit] = []
    if not commits:
        # Nothing happened, or all of it after the window: then those are shown, and count in the next brief.
        latest = await _log(git, head, window.end, _LATEST) or await _log(git, head, None, _LATEST)
    # What a merge brings is told by others. Where nothing is new, TODOs and files are those of the latest commits.
    own = [each for each in commits or latest if len(each.parents) < 2]
    diffed = await _diffable(git, own)
    todos = await _todos(git, diffed)
    main, branches = await _branches(git, tips, window.end)
    authors = _authors(commits)
    found = Facts(
        since=window.start.astimezone(zone),
        until=window.end.astimezone(zone),
        commits=len(commits),
        authors=authors[:SHOWN],
        author_count=len(authors),
        latest=[(datetime.fromtimestamp(each.at, zone), each.author, each.subject) for each in latest],
        main=main,
        branches=branches[:SHOWN],
        branch_count=len(branches),
        todos=todos[:SHOWN],
        todo_count=len(todos),
        files=(await _files(git, diffed))[:SHOWN],
        undiffed=len(own) - len(diffed),
    )
    return asdict(found, recurse=False)


class Git:
    """Runs git on one repository, out of reach of the user's settings, prompts, pagers and hooks."""

    def __init__(self, repository: Repository) -> None:
        self.path = repository.path
        # An explicit --git-dir: in a folder that git does not recognise it would go up and report its parent.
        self._command = ["git", "-C", str(repository.path), f"--git-dir={repository.git_dir}", "--no-pager"]
        for setting in ("safe.directory=*", "core.quotePath=false", "core.fsmonitor=false", "core.bigFileThreshold=1m"):
            self._command += ["-c", setting]
        ours = {"LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0", "GIT_OPTIONAL_LOCKS": "0", "GIT_NO_LAZY_FETCH": "1"}
        # Variables such as GIT_DIR, which hooks set, would point every call to another repository.
        self._env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")} | ours

    async def run(self, *arguments: str, lines: Sequence[str] | None = None, may_fail: bool = False) -> bytes:
        """Run one command and give what it wrote. Cancelling kills it.

        Args:
            arguments: Of git.
            lines: Its standard input.
            may_fail: Whether exit status 1 without a word is an answer too.

        Raises:
            GitError: It failed, or took longer than ``TIMEOUT``.
        """
        with ExitStack() as stack:
            # A file instead of a pipe: git may end without reading it all.
            stdin = subprocess.DEVNULL if lines is None else stack.enter_context(tempfile.TemporaryFile())
            if lines is not None and not isinstance(stdin, int):
                stdin.write("".join(f"{line}\n" for line in lines).encode())
                stdin.seek(0)
            try:
                with anyio.fail_after(TIMEOUT):
                    done = await anyio.run_process(
                        [*self._command, *arguments], stdin=stdin, env=self._env, check=False
                    )
            except TimeoutError as error:
                raise GitError(f"git {arguments[0]} took longer than {TIMEOUT} seconds") from error
        if done.returncode == 0 or (may_fail and done.returncode == 1 and not done.stderr):
            return done.stdout
        said = [line for line in _clean(done.stderr, keep="\n").split("\n") if line.strip()]
        errors = [line for line in said if line.startswith(("fatal:", "error:"))]
        raise GitError((errors or said or [f"git {arguments[0]} ended with status {done.returncode}"])[0])


@frozen
class _Tip:
    """A reference: a branch, or one of a remote."""

    name: str
    is_head: bool
    points_to: str
    at: int


async def _tips(git: Git) -> Sequence[_Tip]:
    form = "--format=%(refname)%00%(HEAD)%00%(symref)%00%(committerdate:unix)"
    output = await git.run("for-each-ref", form, "refs/heads", "refs/remotes")
    rows = [line.split("\0") for line in output.decode("utf-8", "surrogateescape").split("\n") if line]
    return [_Tip(name, head == "*", symref, int(at)) for name, head, symref, at in rows if at]


async def _log(git: Git, head: Sequence[str], end: datetime | None, *limits: str) -> Sequence[Commit]:
    """Commits up to ``end``, if there is one, the newest first."""
    output = await git.run(
        "log",
        "-z",
        "--no-show-signature",
        "--encoding=UTF-8",
        "--format=tformat:%H%x00%ct%x00%aN%x00%s%x00%P",
        *([] if end is None else [f"--min-age={int(end.timestamp())}"]),
        *limits,
        "--branches",
        "--remotes",
        *head,
        "--",
    )
    fields = output.split(b"\0")[:-1]
    return [
        Commit(sha.decode(), int(at), _clean(author) or "nobody", _clean(subject), parents.decode().split())
        for sha, at, author, subject, parents in zip(*[iter(fields)] * 5, strict=True)
    ]


async def _commits(git: Git, head: Sequence[str], window: Window) -> Sequence[Commit]:
    """Commits after the window's start, up to and including its end."""
    # Git stops at the first commit that is too old, so it is asked for more than is wanted.
    since = f"--max-age={max(int((window.start - SKEW).timestamp()), 0)}"
    commits = await _log(git, head, window.end, since, f"--max-count={MOST_COMMITS}")
    return [each for each in commits if window.start.timestamp() < each.at <= window.end.timestamp()]


def _authors(commits: Sequence[Commit]) -> Sequence[Author]:
    """The busiest first."""
    subjects: defaultdict[str, list[str]] = defaultdict(list)
    for commit in commits:
        subjects[commit.author].append(commit.subject)
    by_count = sorted(subjects.items(), key=lambda item: (-len(item[1]), item[0]))
    return [Author(name, len(lines), lines[:SHOWN]) for name, lines in by_count]


async def _branches(git: Git, tips: Sequence[_Tip], end: datetime) -> tuple[str, Sequence[Branch]]:
    """The default branch's name, and the local branches that are ahead of it or stale, the newest first."""
    main = _main(tips)
    if main is None:
        return "", []
    output = await git.run("for-each-ref", "--format=%(refname)", f"--no-merged={main}", "refs/heads")
    unmerged = set(output.decode("utf-8", "surrogateescape").splitlines())
    branches: list[Branch] = []
    for tip in sorted(tips, key=lambda tip: -tip.at):
        days = (end - datetime.fromtimestamp(tip.at, end.tzinfo)).days
        stale = days > STALE.days
        if tip.name.startswith("refs/heads/") and tip.name != main and (stale or tip.name in unmerged):
            # Counting costs a process a branch, so only what is shown is counted.
            count = tip.name in unmerged and len(branches) < SHOWN
            ahead = int(await git.run("rev-list", "--count", f"{main}..{tip.name}", "--")) if count else 0
            branches.append(Branch(_short(tip.name), ahead, max(days, 0), stale))
    return _short(main), branches


def _main(tips: Sequence[_Tip]) -> str | None:
    """The default branch: what the remote calls so, else what is usual, else what is checked out."""
    names = {tip.name for tip in tips}
    remote = next((tip.points_to for tip in tips if tip.name == "refs/remotes/origin/HEAD"), "")
    usual = [f"refs/heads/{name}" for name in (remote.removeprefix("refs/remotes/origin/"), "main", "master", "trunk")]
    checked_out = [tip.name for tip in tips if tip.is_head]
    return next((name for name in (usual[0], remote, *usual[1:], *checked_out) if name in names), None)


def _short(name: str) -> str:
    short = name.removeprefix("refs/heads/").removeprefix("refs/remotes/")
    return _clean(short.encode("utf-8", "surrogateescape"))


async def _diffable(git: Git, commits: Sequence[Commit]) -> Sequence[str]:
    """The newest commits; not those where a shallow clone was cut off, which seem to add every file there is."""
    if not commits:
        return []
    shallow = (await git.run("rev-parse", "--git-path", "shallow")).decode("utf-8", "surrogateescape").rstrip("\n")
    try:
        cut_off = set((await anyio.Path(git.path / shallow).read_text()).split())
    except OSError:  # Hardly any clone is shallow.
        cut_off = set[str]()
    return [each.sha for each in commits if each.sha not in cut_off][:MOST_DIFFS]


_DIFF = ("diff-tree", "--stdin", "--root", "--no-commit-id", "-r", "--no-renames", "--no-ext-diff", "--no-textconv")


async def _files(git: Git, shas: Sequence[str]) -> Sequence[TouchedFile]:
    """What was touched by most commits first."""
    touched: defaultdict[bytes, list[tuple[int, int]]] = defaultdict(list)
    for record in (await git.run(*_DIFF, "-z", "--numstat", lines=shas)).split(b"\0") if shas else []:
        if record:
            added, removed, path = record.split(b"\t", 2)
            # Binary files have a dash for their number of lines.
            touched[path].append((int(added.replace(b"-", b"0")), int(removed.replace(b"-", b"0"))))
    files = [
        TouchedFile(_clean(path), len(changes), sum(a for a, _ in changes), sum(r for _, r in changes))
        for path, changes in touched.items()
    ]
    return sorted(files, key=lambda file: (-file.commits, -(file.added + file.removed), file.path))


_MARK = re.compile(rb"\b(?:TODO|FIXME)\b")
_HUNK = re.compile(rb"@@ -\d+(?:,(\d+))? \+\d+(?:,(\d+))? @@")


async def _todos(git: Git, shas: Sequence[str]) -> Sequence[Todo]:
    """Lines that were added on balance: what was only moved, or added and removed again, does not count."""
    if not shas:
        return []
    prefixes = ("--src-prefix=a/", "--dst-prefix=b/")
    patch = await git.run(*_DIFF, "-p", "--unified=0", "--no-color", *prefixes, "-GTODO|FIXME", lines=shas)
    changed = [(path, sign, line.strip()) for path, sign, line in _changed_lines(patch) if _MARK.search(line)]
    removed = Counter(line for _, sign, line in changed if sign == b"-")
    added: dict[Todo, None] = {}
    for path, sign, line in changed:
        if sign == b"+":
            if removed[line] > 0:
                removed[line] -= 1
            else:
                added[Todo(_clean(path), _clean(line))] = None
    return list(added)


def _changed_lines(patch: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Path, sign and text of each changed line. Hunks are counted out: a changed line may look like a header."""
    path = b""
    old = new = 0
    for line in patch.split(b"\n"):
        sign = line[:1]
        if (sign == b"-" and old > 0) or (sign == b"+" and new > 0):
            old, new = (old - 1, new) if sign == b"-" else (old, new - 1)
            yield path, sign, line[1:]
        elif old <= 0 and new <= 0:
            if line.startswith((b"--- ", b"+++ ")) and line[4:] != b"/dev/null":
                path = _unquoted(line[4:])[2:]
            elif hunk := _HUNK.match(line):
                old, new = (1 if count is None else int(count) for count in hunk.groups())


def _unquoted(path: bytes) -> bytes:
    """Undo how git writes paths: a tab after those with spaces, quotes and escapes around those with controls."""
    path = path.removesuffix(b"\t")
    if not path.startswith(b'"'):
        return path
    return path[1:-1].decode("unicode_escape").encode("latin-1")


def _clean(text: bytes, keep: str = "") -> str:
    """Decode what people wrote, in whatever encoding, and drop what would steer a terminal."""
    decoded = text.decode("utf-8", "replace")
    return "".join(char if char in keep or char.isprintable() else " " for char in decoded).strip()[:500]
