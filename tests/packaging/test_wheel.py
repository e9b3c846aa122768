"""What an author of a storage has: the built wheel with its extra, an empty directory, and the lines of the documentation."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MYAPP = """
from fanout_briefs.adapters.memory import MemoryStorage

class MyStorage(MemoryStorage):
    pass
"""


@pytest.fixture
def python(tmp_path: Path) -> Path:
    """The Python of an environment that has the wheel, and what its extra asks for."""
    subprocess.run([uv(), "venv", "-q", "--python", sys.executable, tmp_path / "env"], check=True)
    python = tmp_path / "env" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    install(python, f"{built(ROOT, tmp_path)}[testing]")
    return python


def uv() -> str:
    found = shutil.which("uv")
    if found is None:
        pytest.skip("no uv to build the wheel with")
    return found


def built(project: Path, folder: Path) -> Path:
    """The wheel of a project."""
    subprocess.run([uv(), "build", "-q", "--wheel", "--out-dir", folder / project.name, project], check=True)
    (wheel,) = (folder / project.name).glob("*.whl")
    return wheel


def install(python: Path, what: str) -> None:
    subprocess.run([uv(), "pip", "install", "-q", "--python", python, what], check=True)


def run_tests(python: Path, folder: Path, **more: str) -> str:
    """Run the tests of a folder as strictly as one can; give the last line, which says that all passed."""
    command = [str(python), "-m", "pytest", "-q", "--strict-markers", "-W", "error"]
    ran = subprocess.run(command, cwd=folder, env={**os.environ, **more}, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout
    return ran.stdout.splitlines()[-1]


@pytest.mark.nightly
def test_the_lines_that_test_a_storage_are_green_with_only_the_wheel(python: Path, tmp_path: Path) -> None:
    page = (ROOT / "docs/contracts.md").read_text(encoding="utf-8")
    (lines, *_) = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    folder = tmp_path / "outsider"
    folder.mkdir()
    (folder / "myapp.py").write_text(MYAPP, encoding="utf-8")
    (folder / "test_my_storage.py").write_text(lines, encoding="utf-8")
    assert re.search(r"^\d{3} passed, \d+ skipped in", run_tests(python, folder))


@pytest.mark.nightly
@pytest.mark.slow
def test_the_example_of_a_storage_is_green_with_only_its_wheel_and_ours(
    python: Path, tmp_path: Path, redis_url: str
) -> None:
    example = ROOT / "examples" / "redis_briefs"
    install(python, str(built(example, tmp_path)))
    folder = Path(shutil.copytree(example / "tests", tmp_path / "elsewhere"))
    # Every clause: none is skipped, as every capability is declared.
    assert re.search(r"^\d{3} passed in", run_tests(python, folder, REDIS_URL=redis_url))
