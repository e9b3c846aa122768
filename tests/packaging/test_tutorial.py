"""A stranger's path: an empty directory, the wheel in place of the package index, and the fences of the tutorial."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from pages import ROOT, follow, plain_environment, prints


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="the tutorial's fences are of a POSIX shell")
def test_a_stranger_comes_from_an_empty_directory_to_three_peoples_mails_by_copying(tmp_path: Path) -> None:
    uv = shutil.which("uv")
    if uv is None:
        pytest.skip("no uv to build the wheel with")
    subprocess.run([uv, "build", "-q", "--wheel", "--out-dir", tmp_path / "dist", ROOT], check=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    (tmp_path / "this.txt").write_text(f"fanout-briefs=={wheel.name.split('-')[1]}\n", encoding="utf-8")
    folder = tmp_path / "home"
    folder.mkdir()
    environment = plain_environment()
    environment.pop("VIRTUAL_ENV", None)
    environment.pop("PYTHONPATH", None)
    environment["PIP_FIND_LINKS"] = str(tmp_path / "dist")
    environment["PIP_CONSTRAINT"] = str(tmp_path / "this.txt")
    begun = time.perf_counter()
    for fence, printed in follow(ROOT / "docs" / "tutorial.md", folder, environment):
        print(f"{time.perf_counter() - begun:6.1f} s  {fence.code.splitlines()[0]}")
        prints(fence, printed)
    mails = sorted(path.name.split(":")[2] for path in (folder / "morning" / "outbox").iterdir())
    assert mails == ["ana", "ana", "bo", "chi"]
