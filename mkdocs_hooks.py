"""The README of each example is a page of the documentation, too, so that a link to it holds in the repository and here."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_ROOT = Path(__file__).parent
_LINK = re.compile(r"\[(?P<text>[^\]]+)\]\((?P<target>[^)\s]+)\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the README of each example, as though the folder lay in ``docs``."""
    for readme in sorted(_ROOT.glob("examples/*/README.md")):
        uri = readme.relative_to(_ROOT).as_posix()
        files.append(File.generated(config, uri, abs_src_path=str(readme)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead links between pages and examples to their places here; what is no page is named without a link."""
    del config, files
    if not page.file.src_uri.startswith("examples/"):
        return re.sub(r"\]\((?:\.\./)+(?=examples/)", lambda found: found[0].replace("../", "", 1), markdown)

    def moved(found: re.Match[str]) -> str:
        text, target = found["text"], found["target"]
        if target == "../../README.md":
            return f"[{text}](../../index.md)"
        if target.startswith("../../docs/"):
            return f"[{text}](../../{target.removeprefix('../../docs/')})"
        return found[0] if "://" in target or target.startswith("#") else text

    return _LINK.sub(moved, markdown)
