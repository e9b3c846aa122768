"""What an author of a storage has: the built wheel with its extra, an empty directory, and the lines of the documentation."""

from __future__ import annotations

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
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("no uv to build the wheel with")
    subprocess.run([uv, "build", "-q", "--wheel", "--out-dir", tmp_path / "dist", ROOT], check=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    subprocess.run([uv, "venv", "-q", "--python", sys.executable, tmp_path / "env"], check=True)
    python = tmp_path / "env" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    subprocess.run([uv, "pip", "install", "-q", "--python", python, f"{wheel}[testing]"], check=True)
    return python


@pytest.mark.nightly
def test_the_lines_that_test_a_storage_are_green_with_only_the_wheel(python: Path, tmp_path: Path) -> None:
    page = (ROOT / "docs/contracts.md").read_text(encoding="utf-8")
    (lines, *_) = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    folder = tmp_path / "outsider"
    folder.mkdir()
    (folder / "myapp.py").write_text(MYAPP, encoding="utf-8")
    (folder / "test_my_storage.py").write_text(lines, encoding="utf-8")
    command = [str(python), "-m", "pytest", "-q", "--strict-markers", "-W", "error"]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout
    assert re.search(r"^\d{3} passed, \d+ skipped in", ran.stdout, re.MULTILINE)
