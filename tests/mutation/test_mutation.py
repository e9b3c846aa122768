"""The tool that changes the algorithms: which changes it makes, and what it makes of their trials."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("cosmic_ray", reason="needs the dependency group mutation")

from mutants import mutants_of

HERE = Path(__file__).parent


def changes(folder: Path, source: str) -> list[tuple[str, str]]:
    (folder / "code.py").write_text(source, encoding="utf-8")
    return [(mutant.was, mutant.became) for mutant in mutants_of(folder, "code.py")]


def test_what_is_done_for_its_effect_is_left_out(tmp_path: Path) -> None:
    source = "def work(self):\n    self.begin(\n        self\n    )\n    self.done = True\n    self.count += 1\n    name = self\n"
    assert [was for was, became in changes(tmp_path, source) if became == "pass"] == [
        "self.begin( self )",
        "self.done = True",
        "self.count += 1",
    ]


def test_annotations_are_not_changed_for_nobody_evaluates_them(tmp_path: Path) -> None:
    source = "def f(a: int | None, *, b: A | B) -> int | str:\n    c: A | B\n    return a | b\n"
    assert changes(tmp_path, source) == [("return a | b", "return a & b")]


def test_an_operator_becomes_one_other_of_its_kind(tmp_path: Path) -> None:
    assert changes(tmp_path, "x = a // b\n") == [("x = a // b", "x = a * b")]
    became = {after for _, after in changes(tmp_path, "x = a == b\n")}
    assert became == {"x = a != b", "x = a < b", "x = a <= b", "x = a > b", "x = a >= b"}
    assert changes(tmp_path, "x = a is b\n") == [("x = a is b", "x = a is not b")]


def test_a_change_keeps_its_key_when_its_lines_move(tmp_path: Path) -> None:
    source = "class A:\n    def f(self):\n        return not self\n"
    (tmp_path / "code.py").write_text(source, encoding="utf-8")
    before = mutants_of(tmp_path, "code.py")
    (tmp_path / "code.py").write_text('"""A module."""\n\n' + source, encoding="utf-8")
    after = mutants_of(tmp_path, "code.py")
    assert (
        [mutant.key for mutant in before]
        == [mutant.key for mutant in after]
        == [("code.py", "A.f", "return not self", "return self", 1)]
    )
    assert before[0].line == after[0].line - 2


def test_equal_changes_of_one_function_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "code.py").write_text("def f():\n    g()\n    g()\n", encoding="utf-8")
    assert [(mutant.line, mutant.nth) for mutant in mutants_of(tmp_path, "code.py")] == [(2, 1), (3, 2)]


TRIALS = """
from pathlib import Path
from trial import Trial, preload

preload(("test_code.py",), Path.cwd())
trial = Trial("test_code.py", Path.cwd(), most=2)
for code in ("x = 1", "x = 2", "x = 1 +", "while True: pass"):
    verdict = trial.run("src/code_to_try.py", code)
    print(verdict.survived, verdict.by)
"""


def test_a_trial_says_whether_the_changed_text_was_noticed_and_leaves_the_file_alone(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    file = tmp_path / "src" / "code_to_try.py"
    file.write_text("x = 1\n", encoding="utf-8")
    (tmp_path / "test_code.py").write_text(
        "def test_x():\n    import code_to_try\n    assert code_to_try.x == 1\n", encoding="utf-8"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\npythonpath = src\n", encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-c", TRIALS],
        cwd=tmp_path,
        env={"PYTHONPATH": str(HERE), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    failed = "False test_code.py::test_x"
    assert done.stdout.splitlines() == ["True ", failed, failed, "False took too long"]
    assert file.read_text(encoding="utf-8") == "x = 1\n"
