"""The example that newcomers run first, on real Git repositories and a real outbox."""

from __future__ import annotations

import email
import email.policy
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from examples.repo_standup import gitfacts
from examples.repo_standup.__main__ import HERE, main
from examples.repo_standup.gitfacts import Author, Git, GitError, Todo, facts
from examples.repo_standup.people import BadPeople, CsvPreferences, CsvRecipients, read_people
from examples.repo_standup.repositories import (
    NoRepositories,
    Repository,
    enclosing_repository,
    find_repositories,
)

from fanout_briefs.adapters.jinja import JinjaGenerator
from fanout_briefs.model import Occurrence, Project, ProjectBrief, SectionRequest, Window

if shutil.which("git") is None:
    if os.environ.get("REQUIRE_SERVICES") == "1":
        raise RuntimeError("REQUIRE_SERVICES=1, and git is not installed")
    pytest.skip("git is not installed", allow_module_level=True)

AS_OF = "2026-03-09T18:00:00+00:00"
END = datetime(2026, 3, 9, 7, 0, tzinfo=UTC)
START = END - timedelta(days=1)
NOON_BEFORE = START + timedelta(hours=5)


class Repo:
    """A real repository, with commits at given times."""

    def __init__(self, path: Path, *arguments: str) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)
        self.git("init", "--quiet", "--initial-branch=main", *arguments)

    def git(self, *arguments: str, at: datetime = NOON_BEFORE, author: str = "Ada Okafor", given: bytes = b"") -> str:
        stamp = f"{int(at.timestamp())} +0000"
        env = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")} | {
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_SYSTEM": os.devnull,
            "GIT_AUTHOR_NAME": author,
            "GIT_AUTHOR_EMAIL": "someone@example.com",
            "GIT_COMMITTER_NAME": author,
            "GIT_COMMITTER_EMAIL": "someone@example.com",
            "GIT_AUTHOR_DATE": "1000000000 +0000",
            "GIT_COMMITTER_DATE": stamp,
        }
        done = subprocess.run(
            ["git", *arguments], cwd=self.path, env=env, input=given, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode("utf-8", "replace").strip()

    def commit(
        self,
        subject: str,
        files: Mapping[str, str | bytes | None] | None = None,
        *,
        at: datetime = NOON_BEFORE,
        author: str = "Ada Okafor",
    ) -> str:
        for name, content in (files or {}).items():
            target = self.path / name
            if content is None:
                target.unlink()
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content if isinstance(content, bytes) else content.encode())
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", f"--message={subject}", at=at, author=author)
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    return Repo(tmp_path / "rocket")


def found_at(path: Path) -> Repository:
    return enclosing_repository(path)


def a_request(path: Path, start: datetime = START, end: datetime = END, zone: str = "Europe/Berlin") -> SectionRequest:
    return SectionRequest(
        user_id="ada",
        project=Project(path.name, path.name, found_at(path)),
        window=Window(start, end),
        occurrence=Occurrence(date(2026, 3, 9), END + timedelta(minutes=15)),
        timezone=zone,
    )


async def asked(path: Path, **window: Any) -> Mapping[str, Any]:
    answer = await facts(a_request(path, **window))
    assert answer is not None
    return answer


async def section(path: Path, **window: Any) -> ProjectBrief:
    generator = JinjaGenerator(facts, text="section.txt", html="section.html", templates=HERE / "templates")
    made = await generator.generate(a_request(path, **window))
    assert made is not None
    return made


def subjects(answer: Mapping[str, Any]) -> list[str]:
    return [subject for author in answer["authors"] for subject in author.subjects]


# What git knows ------------------------------------------------------------------------------------


async def test_commits_are_counted_by_author_the_busiest_first(repo: Repo) -> None:
    repo.commit("one", author="Ben")
    repo.commit("two")
    repo.commit("three", at=NOON_BEFORE + timedelta(minutes=1))
    answer = await asked(repo.path)
    assert answer["commits"] == 3
    assert answer["authors"] == [Author("Ada Okafor", 2, ["three", "two"]), Author("Ben", 1, ["one"])]


async def test_the_window_is_exact_to_the_second_and_open_at_its_start(repo: Repo) -> None:
    second = timedelta(seconds=1)
    for name, at in (("start", START), ("after", START + second), ("end", END), ("later", END + second)):
        repo.commit(name, at=at)
    assert subjects(await asked(repo.path)) == ["end", "after"]
    half = timedelta(milliseconds=500)
    assert subjects(await asked(repo.path, start=START - half, end=END - half)) == ["after", "start"]
    assert subjects(await asked(repo.path, start=START + half, end=END + half)) == ["end", "after"]


async def test_a_commit_is_found_behind_one_whose_clock_was_wrong(repo: Repo) -> None:
    repo.commit("right")
    repo.commit("by a clock three days late", at=NOON_BEFORE - timedelta(days=3))
    assert subjects(await asked(repo.path)) == ["right"]


async def test_commits_on_every_branch_and_of_remotes_count_once(repo: Repo, tmp_path: Path) -> None:
    repo.commit("on main")
    repo.git("switch", "--quiet", "--create", "side")
    repo.commit("on side")
    repo.git("clone", "--quiet", ".", str(tmp_path / "clone"))
    assert sorted(subjects(await asked(tmp_path / "clone"))) == ["on main", "on side"]


async def test_merges_count_as_commits_and_bring_no_lines_twice(repo: Repo) -> None:
    repo.commit("base", {"a": "1\n"})
    repo.git("switch", "--quiet", "--create", "side")
    repo.commit("side", {"b": "# TODO once\n"})
    repo.git("switch", "--quiet", "main")
    repo.commit("main", {"c": "1\n"})
    repo.git("merge", "--quiet", "--no-ff", "--message=merge", "side")
    answer = await asked(repo.path)
    assert answer["commits"] == 4
    assert answer["todos"] == [Todo("b", "# TODO once")]
    assert [(file.path, file.commits) for file in answer["files"]] == [("a", 1), ("b", 1), ("c", 1)]
    assert answer["undiffed"] == 0


async def test_branches_ahead_or_stale_are_told_and_merged_fresh_ones_are_not(repo: Repo) -> None:
    repo.commit("base", at=END - timedelta(days=60))
    repo.git("branch", "old-and-merged")
    repo.git("switch", "--quiet", "--create", "stale")
    repo.commit("forgotten", at=END - timedelta(days=31, hours=1))
    repo.git("switch", "--quiet", "--create", "ahead", "main")
    repo.commit("one")
    repo.commit("two")
    repo.git("switch", "--quiet", "main")
    repo.commit("main")
    repo.git("branch", "fresh-and-merged")
    answer = await asked(repo.path)
    assert answer["main"] == "main"
    assert [(b.name, b.ahead, b.days, b.stale) for b in answer["branches"]] == [
        ("ahead", 2, 0, False),
        ("stale", 1, 31, True),
        ("old-and-merged", 0, 60, True),
    ]


@pytest.mark.parametrize(("name", "expected"), [("master", "master"), ("develop", "develop")])
async def test_the_default_branch_is_the_usual_one_or_else_the_one_checked_out(
    repo: Repo, name: str, expected: str
) -> None:
    repo.commit("base")
    repo.git("branch", "--move", name)
    assert (await asked(repo.path))["main"] == expected


async def test_the_default_branch_is_what_the_remote_says(repo: Repo, tmp_path: Path) -> None:
    repo.commit("base")
    repo.git("branch", "main-of-old")
    repo.git("branch", "--move", "main", "production")
    repo.git("clone", "--quiet", ".", str(tmp_path / "clone"))
    assert (await asked(tmp_path / "clone"))["main"] == "production"


async def test_todos_are_those_added_on_balance(repo: Repo) -> None:
    repo.commit("before", {"old.py": "# TODO old\n", "moved.py": "# FIXME moved\n"}, at=START - timedelta(hours=1))
    repo.commit("a", {"new.py": "x = 1  # TODO new\n++ FIXME looks like a header\n", "gone.py": "# TODO gone\n"})
    repo.commit("b", {"gone.py": None, "moved.py": None, "elsewhere/moved.py": "    # FIXME moved\n"})
    repo.commit("c", {"words.txt": "TODOS, MYTODO and todo are none\n"})
    answer = await asked(repo.path)
    assert sorted(answer["todos"], key=str) == [
        Todo("new.py", "++ FIXME looks like a header"),
        Todo("new.py", "x = 1  # TODO new"),
    ]


async def test_odd_names_and_encodings_are_shown_as_well_as_they_can_be(repo: Repo) -> None:
    names = ["with space.py", "tab\there.py", 'quo"te.py', "ümläut.py", "back\\slash.py", "new\nline.py"]
    if os.name == "nt":
        names = names[:1] + names[3:4]
    repo.commit("odd", dict.fromkeys(names, b"# TODO\r\n") | {"latin.py": "# TODO schön".encode("latin-1")})
    tree = repo.git("write-tree")
    raw = f"tree {tree}\nparent {repo.git('rev-parse', 'HEAD')}\n".encode()
    stamp = f"<x@y> {int(NOON_BEFORE.timestamp())} +0000".encode()
    raw += b"author J\xfcrgen " + stamp + b"\ncommitter J\xfcrgen " + stamp + b"\n\nsch\xf6n \x1b[31mrot\n"
    repo.git("reset", "--hard", repo.git("hash-object", "-t", "commit", "-w", "--stdin", given=raw))
    answer = await asked(repo.path)
    shown = [name.replace("\t", " ").replace("\n", " ") for name in names]
    assert sorted(todo.path for todo in answer["todos"]) == sorted([*shown, "latin.py"])[: len(answer["todos"])]
    assert {file.path for file in answer["files"]} == {*shown, "latin.py"}
    assert Todo("latin.py", "# TODO sch\ufffdn") in answer["todos"]
    assert [author.name for author in answer["authors"]] == ["Ada Okafor", "J\ufffdrgen"]
    assert "sch\ufffdn  [31mrot" in subjects(answer)
    made = await section(repo.path)
    assert "\x1b" not in made.text


async def test_files_touched_by_most_commits_come_first_and_binary_ones_have_no_lines(repo: Repo) -> None:
    repo.commit("a", {"often.py": "1\n", "big.py": "1\n" * 50, "data.bin": b"\0\1"})
    repo.commit("b", {"often.py": "2\n"})
    answer = await asked(repo.path)
    assert [(f.path, f.commits, f.added, f.removed) for f in answer["files"]] == [
        ("often.py", 2, 2, 1),
        ("big.py", 1, 50, 0),
        ("data.bin", 1, 0, 0),
    ]


async def test_lists_are_cut_and_say_how_much_is_left(repo: Repo) -> None:
    repo.commit("base", {f"f{number:02}.py": f"# TODO {number}\n" for number in range(12)})
    for number in range(10):
        repo.commit(f"change {number}", author=f"Author {number}")
        repo.git("branch", f"branch-{number}")
    for number in range(10):
        repo.git("switch", "--quiet", f"branch-{number}")
        repo.commit(f"own {number}", at=NOON_BEFORE + timedelta(minutes=number))
    answer = await asked(repo.path)
    assert (answer["author_count"], len(answer["authors"])) == (11, 8)
    assert (answer["todo_count"], len(answer["todos"])) == (12, 8)
    assert (answer["branch_count"], len(answer["branches"])) == (10, 8)
    made = await section(repo.path)
    assert made.text.count("... and ") == 4
    assert "... and 4 more" in made.text
    assert max(map(len, made.text.splitlines())) <= 80


async def test_a_quiet_repository_shows_its_latest_commits(repo: Repo) -> None:
    for number in range(7):
        repo.commit(f"old {number}", {"notes.txt": f"{number}\n"}, at=START - timedelta(days=11 - number))
    made = await section(repo.path)
    assert made.text.startswith("No commits since Sun 08 Mar, 08:00; the latest was on Tue 03 Mar 2026:\n")
    assert [number for number in range(7) if f"old {number}" in made.text] == [2, 3, 4, 5, 6]
    assert "Files most touched" in made.text
    assert made.html is not None
    assert "old 6" in made.html


async def test_a_repository_begun_after_the_window_shows_what_the_next_brief_counts(repo: Repo) -> None:
    repo.commit("just begun", at=END + timedelta(hours=1))
    made = await section(repo.path)
    assert made.text.startswith(
        "Nothing up to Mon 09 Mar, 08:00, where this brief ends. The latest commits, which\nthe next one counts:\n"
    )
    assert "just begun" in made.text


async def test_a_repository_without_any_commit_has_no_section(repo: Repo) -> None:
    assert await facts(a_request(repo.path)) is None


async def test_a_detached_head_counts_too(repo: Repo) -> None:
    repo.commit("on main")
    repo.git("switch", "--quiet", "--detach")
    repo.commit("on no branch")
    assert sorted(subjects(await asked(repo.path))) == ["on main", "on no branch"]


async def test_an_unborn_head_beside_other_branches_does_no_harm(repo: Repo) -> None:
    repo.commit("on main")
    repo.git("switch", "--quiet", "--orphan", "new")
    assert subjects(await asked(repo.path)) == ["on main"]


async def test_a_bare_repository_and_a_worktree_are_like_others(repo: Repo, tmp_path: Path) -> None:
    repo.commit("one", {"a": "TODO\n"})
    repo.git("clone", "--quiet", "--bare", ".", str(tmp_path / "bare.git"))
    repo.git("worktree", "add", "--quiet", str(tmp_path / "tree"))
    assert subjects(await asked(tmp_path / "bare.git")) == subjects(await asked(tmp_path / "tree")) == ["one"]
    assert (await asked(tmp_path / "tree"))["todos"] == [Todo("a", "TODO")]


async def test_a_shallow_clone_does_not_count_every_file_as_new(repo: Repo, tmp_path: Path) -> None:
    repo.commit("one", {"a": "TODO a\n"})
    repo.commit("two", {"b": "TODO b\n"})
    repo.git("clone", "--quiet", "--depth=1", repo.path.as_uri(), str(tmp_path / "shallow"))
    answer = await asked(tmp_path / "shallow")
    assert (answer["commits"], answer["undiffed"], answer["todos"], answer["files"]) == (1, 1, [], [])


def remove_objects(path: Path) -> None:
    for folder in (path / ".git" / "objects").iterdir():
        if len(folder.name) == 2:
            shutil.rmtree(folder)


def remove_trees(repo: Repo) -> None:
    sha = repo.git("rev-parse", "HEAD^{tree}")
    (repo.path / ".git" / "objects" / sha[:2] / sha[2:]).unlink()


CORRUPTIONS: dict[str, tuple[Callable[[Repo], object], str]] = {
    "no objects": (lambda repo: remove_objects(repo.path), "fatal: missing object "),
    "no tree": (remove_trees, "fatal: unable to read tree "),
    "empty branch": (lambda repo: (repo.path / ".git/refs/heads/main").write_bytes(b""), "fatal: bad object main"),
    "no HEAD": (lambda repo: (repo.path / ".git/HEAD").unlink(), "fatal: not a git repository: "),
    "no .git": (lambda repo: shutil.rmtree(repo.path / ".git/objects"), "fatal: not a git repository: "),
}


@pytest.mark.parametrize("corruption", CORRUPTIONS)
async def test_a_corrupt_repository_raises_gits_own_words(corruption: str, repo: Repo) -> None:
    repo.commit("one", {"a": "1\n"})
    corrupt, words = CORRUPTIONS[corruption]
    corrupt(repo)
    with pytest.raises(GitError, match=f"^{words}") as caught:
        await facts(a_request(repo.path))
    assert "\n" not in str(caught.value)


async def test_a_broken_repository_inside_another_does_not_report_the_outer_one(repo: Repo) -> None:
    repo.commit("outer")
    (repo.path / "inner" / ".git").mkdir(parents=True)
    with pytest.raises(GitError, match="not a git repository"):
        await facts(a_request(repo.path / "inner"))


async def test_variables_and_settings_of_the_user_change_nothing(
    repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo.commit("one", {"a b.py": "TODO\n"})
    other = Repo(tmp_path / "other")
    for setting in ("diff.noprefix=true", "diff.external=false", "color.ui=always", "log.showSignature=true"):
        repo.git("config", *setting.split("="))
    monkeypatch.setenv("GIT_DIR", str(other.path / ".git"))
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", "false")
    answer = await asked(repo.path)
    assert subjects(answer) == ["one"]
    assert answer["todos"] == [Todo("a b.py", "TODO")]


async def test_nothing_in_the_repository_changes(repo: Repo) -> None:
    repo.commit("one", {"a": "TODO\n"})
    before = {path: path.stat().st_mtime_ns for path in sorted(repo.path.rglob("*"))}
    await asked(repo.path)
    assert {path: path.stat().st_mtime_ns for path in sorted(repo.path.rglob("*"))} == before


async def test_a_git_that_takes_too_long_is_a_failed_section(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gitfacts, "TIMEOUT", 0)
    with pytest.raises(GitError, match="git for-each-ref took longer than 0 seconds"):
        await facts(a_request(repo.path))


@pytest.mark.skipif(os.name == "nt", reason="a shell script stands in for a git that hangs")
async def test_cancelling_kills_git(repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fifo, hanging = tmp_path / "started", tmp_path / "bin" / "git"
    os.mkfifo(fifo)
    hanging.parent.mkdir()
    hanging.write_text(f"#!/bin/sh\necho $$ > '{fifo}'\nexec sleep 1000\n")
    hanging.chmod(0o755)
    monkeypatch.setenv("PATH", str(hanging.parent), prepend=os.pathsep)
    git = Git(found_at(repo.path))
    pids: list[int] = []
    async with anyio.create_task_group() as group:
        group.start_soon(git.run, "log")
        pids.append(int(await anyio.to_thread.run_sync(fifo.read_text)))
        group.cancel_scope.cancel()
    with pytest.raises(ProcessLookupError):
        os.kill(pids[0], 0)


# Finding repositories --------------------------------------------------------------------------------


def test_repositories_are_found_some_levels_down_and_not_inside_each_other(tmp_path: Path) -> None:
    for name in ("b", "a", "team/c", "team/deep/er/d", "team/deep/er/too/far"):
        Repo(tmp_path / name)
    Repo(tmp_path / "a" / "vendored")
    Repo(tmp_path / "bare.git", "--bare")
    Repo(tmp_path / ".hidden")
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / ".git").write_text("gitdir: elsewhere")
    (tmp_path / "circle").symlink_to(tmp_path, target_is_directory=True)
    found = find_repositories(tmp_path, print)
    assert [repository.name for repository in found] == ["a", "b", "bare.git", "team/c", "team/deep/er/d", "tree"]


def test_a_folder_that_is_a_repository_is_the_only_one(repo: Repo) -> None:
    assert [repository.name for repository in find_repositories(repo.path, print)] == ["rocket"]


def test_the_repository_one_stands_in_is_found_from_below(repo: Repo) -> None:
    (repo.path / "src" / "deep").mkdir(parents=True)
    assert enclosing_repository(repo.path / "src" / "deep").path == repo.path.resolve()


def test_no_repository_is_a_clear_message(tmp_path: Path) -> None:
    with pytest.raises(NoRepositories, match="there is no Git repository in it, down to 4 levels"):
        find_repositories(tmp_path, print)
    with pytest.raises(NoRepositories, match="there is no such folder"):
        find_repositories(tmp_path / "nowhere", print)
    with pytest.raises(NoRepositories, match="lies in no Git repository; name a folder that holds some with --repos"):
        enclosing_repository(tmp_path)


# People -----------------------------------------------------------------------------------------------

HEADER = "user_id,name,email,timezone,frequency,time_of_day,days,repositories"


def people_file(folder: Path, *rows: str, header: str = HEADER) -> Path:
    path = folder / "people.csv"
    path.write_text("\n".join([header, *rows, ""]), encoding="utf-8")
    return path


async def test_people_are_read_with_their_schedules_and_repositories(tmp_path: Path) -> None:
    path = people_file(
        tmp_path,
        "ada, Ada Okafor ,ada@example.com,Africa/Lagos,daily,07:30,,rocket; team/c",
        "ben,,,,weekly,,3,",
        ",,,,,,,",
        "chen,,c@example.com,,custom,,1;3 5",
    )
    people = read_people(path)
    ada, ben, chen = people
    assert ada.repositories == ["rocket", "team/c"]
    assert (ada.preference.timezone, ada.preference.frequency, ada.preference.time_of_day) == (
        "Africa/Lagos",
        "daily",
        "07:30",
    )
    assert (ben.preference.day_of_week, ben.preference.days, ben.preference.timezone) == (3, None, None)
    assert chen.preference.days == [1, 3, 5]
    recipients = CsvRecipients(people)
    assert list(await recipients.get(["ada", "ben", "zoe"])) == ["ada"]
    assert (await recipients.get(["ada"]))["ada"].name == "Ada Okafor"


async def test_pages_hold_everybody_once_in_order(tmp_path: Path) -> None:
    preferences = CsvPreferences(read_people(people_file(tmp_path, *(f"u{number}" + "," * 7 for number in range(7)))))
    seen: list[str] = []
    cursor: str | None = None
    while True:
        page = await preferences.page(cursor, 3)
        seen += [preference.user_id for preference in page.items]
        cursor = page.next_cursor
        if cursor is None:
            break
    assert seen == [f"u{number}" for number in range(7)]
    assert list(await preferences.get(["u3", "nobody"])) == ["u3"]


@pytest.mark.parametrize(
    ("content", "problems"),
    [
        (b"", [f"column {name} is missing (found: nothing)" for name in HEADER.split(",")]),
        (b"user_id;name\n", ["column timezone is missing (found: user_id;name)"]),
        (
            b"user_id,email,timezone,frequency,time_of_day,days,user_id\n",
            ["column name is", "column user_id is there twice"],
        ),
        (HEADER.encode(), ["it has no rows"]),
        (
            f"{HEADER}\nada,,,,,,,\n,Nobody,,,,,,\nada,,,,,,,\nada,,,,,,,\nx,1,2,3,4,5,6,7,8\n".encode(),
            [
                "line 3: user_id is empty",
                "line 4: user_id 'ada' is on line 2 already",
                "line 5: user_id 'ada' is on line 2 already",
                "line 6: 9 values for 8 columns",
            ],
        ),
        (f"{HEADER}\nada,,,,,,,\nJ\xfc,,,,,,,".encode("latin-1"), ["line 3: byte 0xfc is not UTF-8"]),
        (HEADER.encode("utf-16"), ["line 1: byte 0xff is not UTF-8"]),
        (f'{HEADER}\n"ada,,,,,,,\n'.encode(), ["unexpected end of data"]),
    ],
)
def test_a_file_of_people_that_cannot_be_used_has_every_problem_named(
    content: bytes, problems: Sequence[str], tmp_path: Path
) -> None:
    path = tmp_path / "people.csv"
    path.write_bytes(content)
    with pytest.raises(BadPeople) as caught:
        read_people(path)
    assert str(path) in str(caught.value)
    for problem in problems:
        assert problem in str(caught.value)


def test_a_file_of_people_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadPeople, match="it cannot be read: No such file or directory"):
        read_people(tmp_path / "nobody.csv")


def test_a_byte_order_mark_is_no_part_of_the_first_column(tmp_path: Path) -> None:
    path = people_file(tmp_path, "ada,,,,,,,")
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert [person.user_id for person in read_people(path)] == ["ada"]


# The whole --------------------------------------------------------------------------------------------


class Standup:
    """Runs the example as a person does, in this process."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.out = folder / "out"
        self._capsys = capsys
        self.said = self.complained = ""

    def run(self, *arguments: object, as_of: str = AS_OF) -> int:
        try:
            status = main([*map(str, arguments), "--out", str(self.out), "--as-of", as_of])
        except SystemExit as exit_:
            status = int(exit_.code or 0)
        self.said, self.complained = self._capsys.readouterr()
        return status

    def mails(self) -> dict[str, str]:
        """The plain text of each mail by address."""
        texts: dict[str, str] = {}
        for path in sorted((self.out / "outbox").glob("*")):
            message = email.message_from_bytes(path.read_bytes(), policy=email.policy.default)
            assert isinstance(message, EmailMessage)
            text, html = message.get_body(("plain",)), message.get_body(("html",))
            assert text is not None
            assert html is not None
            address = message["To"].addresses[0].addr_spec
            assert address not in texts
            texts[address] = text.get_content()
        return texts


@pytest.fixture
def standup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Standup:
    return Standup(tmp_path, capsys)


PEOPLE = (
    "ada,Ada Okafor,ada@example.com,Africa/Lagos,daily,08:15,,",
    "ben,Ben,ben@example.com,Europe/Berlin,weekdays,08:15,,",
    "chen,Chen,chen@example.com,Asia/Shanghai,custom,09:00,0,",
)


def test_everybody_due_gets_one_mail_and_the_second_run_sends_nothing(
    repo: Repo, standup: Standup, tmp_path: Path
) -> None:
    repo.commit("Teach the rocket to land", {"land.py": "# TODO: also on water\n"})
    arguments = ("--repos", repo.path, "--people", people_file(tmp_path, *PEOPLE))

    assert standup.run(*arguments) == 0
    assert "Repo standup as of 2026-03-09T18:00:00+00:00: 3 people" in standup.said
    assert "Briefs made: 2; mails written: 2; already done before: 0." in standup.said
    assert "chen  not due; the next is for Sun 15 Mar, 09:00 Asia/Shanghai" in standup.said
    assert standup.said.count("Teach the rocket to land") == 1
    mails = standup.mails()
    assert sorted(mails) == ["ada@example.com", "ben@example.com"]
    for text in mails.values():
        assert "1 commit since" in text
        assert "* Teach the rocket to land" in text
        assert "# TODO: also on water" in text
    before = {path: path.stat().st_mtime_ns for path in (standup.out / "outbox").iterdir()}

    assert standup.run(*arguments) == 0
    assert "Already done: 2 briefs (2 completed); nothing was sent." in standup.said
    assert {path: path.stat().st_mtime_ns for path in (standup.out / "outbox").iterdir()} == before


def test_the_next_morning_has_what_came_after_the_last_brief(repo: Repo, standup: Standup, tmp_path: Path) -> None:
    arguments = ("--repos", repo.path, "--people", people_file(tmp_path, PEOPLE[0]))
    repo.commit("Monday's")
    assert standup.run(*arguments) == 0
    repo.commit("Tuesday's", at=END + timedelta(hours=2))
    assert standup.run(*arguments, as_of="2026-03-10T18:00:00Z") == 0
    monday, tuesday = sorted(path.read_text() for path in (standup.out / "outbox").iterdir())
    assert ("Monday's" in monday, "Tuesday's" in monday) == (True, False)
    assert ("Monday's" in tuesday, "Tuesday's" in tuesday) == (False, True)


def test_a_corrupt_repository_is_a_failed_section_in_an_otherwise_whole_brief(standup: Standup, tmp_path: Path) -> None:
    for name in ("good", "broken", "fine"):
        Repo(tmp_path / "repos" / name).commit(f"work on {name}")
    remove_objects(tmp_path / "repos" / "broken")
    people = people_file(tmp_path, *PEOPLE)
    assert standup.run("--repos", tmp_path / "repos", "--people", people) == 0
    assert "3 sections, 1 of them failed" in standup.said
    assert "! broken: GitError: fatal: missing object" in standup.said
    for text in standup.mails().values():
        assert "work on good" in text
        assert "work on fine" in text
        assert "This section could not be made: GitError: fatal: missing object" in text


def test_a_brief_with_nothing_but_failures_fails_and_the_status_says_so(
    repo: Repo, standup: Standup, tmp_path: Path
) -> None:
    repo.commit("one")
    remove_objects(repo.path)
    arguments = ("--repos", repo.path, "--people", people_file(tmp_path, PEOPLE[0]))
    for _ in range(2):
        assert standup.run(*arguments) == 1
        assert "fatal: missing object" in standup.said
    assert standup.mails() == {}


def test_fifty_repositories_are_all_in_the_brief(standup: Standup, tmp_path: Path) -> None:
    for number in range(50):
        Repo(tmp_path / "repos" / f"team-{number % 5}" / f"service-{number:02}").commit(f"work on {number:02}")
    people = people_file(tmp_path, PEOPLE[0], PEOPLE[1] + "service-07;team-3/service-13")
    assert standup.run("--repos", tmp_path / "repos", "--people", people) == 0
    assert "50 repositories" in standup.said
    mails = standup.mails()
    assert all(f"work on {number:02}" in mails["ada@example.com"] for number in range(50))
    assert [number for number in range(50) if f"work on {number:02}" in mails["ben@example.com"]] == [7, 13]


def test_bad_rows_are_reported_and_the_others_get_theirs(repo: Repo, standup: Standup, tmp_path: Path) -> None:
    repo.commit("one")
    people = people_file(
        tmp_path,
        PEOPLE[0],
        "zone,,z@example.com,Europe/Atlantis,daily,08:00,,",
        "time,,t@example.com,,daily,25:00,,",
        "often,,o@example.com,,hourly,,,",
        "days,,d@example.com,,custom,08:00,1;x;9,",
        "week,,w@example.com,,weekly,08:00,1;2,",
        "c\x07ntrol,,c@example.com,,,,,",
        f"{'l' * 256},,l@example.com,,,,,",
    )
    assert standup.run("--repos", repo.path, "--people", people) == 1
    assert list(standup.mails()) == ["ada@example.com"]
    for bad in ("Europe/Atlantis", "25:00", "hourly", "[1, 'x', 9]", "'1;2'", "control characters", "255 characters"):
        assert bad in standup.said


def test_addresses_that_are_missing_or_bad_cost_nobody_else_theirs(
    repo: Repo, standup: Standup, tmp_path: Path
) -> None:
    repo.commit("one")
    people = people_file(tmp_path, PEOPLE[0], "none,,,,daily,08:00,,", "bad,,not an address,,daily,08:00,,")
    assert standup.run("--repos", repo.path, "--people", people) == 1
    assert list(standup.mails()) == ["ada@example.com"]
    assert "not sent: unreachable" in standup.said
    assert "failed: address='not an address': must be one address" in standup.said


def test_a_repository_that_nobody_can_find_is_named(repo: Repo, standup: Standup, tmp_path: Path) -> None:
    repo.commit("one")
    people = people_file(tmp_path, PEOPLE[0] + "rocket;rokcet")
    assert standup.run("--repos", repo.path, "--people", people) == 1
    assert "ada names repositories that were not found: rokcet" in standup.complained
    assert "work" not in standup.complained
    assert list(standup.mails()) == ["ada@example.com"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--repos", "/no/such/folder"], "/no/such/folder: there is no such folder"),
        (["--people", "/no/such.csv"], "/no/such.csv cannot be used; mend it and run again:\n  it cannot be read"),
        (["--as-of", "2026-03-09T07:30:00"], "lacks a zone: write 2026-03-09T07:30:00Z"),
        (["--as-of", "yesterday"], "'yesterday' is no ISO instant"),
    ],
)
def test_what_cannot_be_used_is_one_clear_message(
    arguments: Sequence[str], message: str, standup: Standup, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = main(["--out", str(tmp_path / "out"), *arguments])
    except SystemExit as exit_:
        status = int(exit_.code or 0)
    assert status == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_database_that_is_none_is_a_clear_message(repo: Repo, standup: Standup) -> None:
    repo.commit("one")
    standup.out.mkdir()
    (standup.out / "briefs.db").write_bytes(b"something else entirely" * 100)
    assert standup.run("--repos", repo.path) == 2
    assert "briefs.db" in standup.complained
    assert (standup.out / "briefs.db").read_bytes() == b"something else entirely" * 100


def test_a_file_where_the_output_should_go_is_a_clear_message(repo: Repo, standup: Standup) -> None:
    standup.out.write_text("mine")
    assert standup.run("--repos", repo.path) == 2
    assert f"{standup.out}: File exists" in standup.complained


def test_without_git_the_message_says_so(standup: Standup, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert standup.run() == 2
    assert "git was not found; install it" in standup.complained


def test_with_no_arguments_it_reports_on_the_repository_one_stands_in(repo: Repo) -> None:
    repo.commit("one", at=datetime.now(UTC) - timedelta(days=3))
    (repo.path / "src").mkdir()
    root = str(Path(__file__).parent.parent)
    done = subprocess.run(
        [sys.executable, "-m", "examples.repo_standup"],
        cwd=repo.path / "src",
        env=os.environ | {"PYTHONPATH": os.pathsep.join([root, *filter(None, sys.path)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert str(repo.path) in done.stdout
    assert "No commits since" in done.stdout
    made = {path.name for path in (repo.path / "src" / "repo-standup-out").iterdir()}
    assert {"briefs.db", "outbox"} <= made
