"""What benchmarks have in common: the claims they check, the setting they name, and the page they write."""

from __future__ import annotations

import platform
import resource
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from math import log10
from pathlib import Path

from attrs import frozen

WIDTH, ROW, LEFT = 760, 17, 250
# Its text is dark, and the page around it may be, too.
PAPER = '<rect width="100%" height="100%" rx="8" class="paper"/>\n'
STYLE = (
    "text{font:11px sans-serif;fill:#555}.name{text-anchor:end}.group{font-weight:bold;font-size:13px}"
    ".ours{fill:#00897b}.peer{fill:#b0bec5}.paper{fill:#fafaf9}"
)


@frozen
class Bar:
    """A claim: ``found`` is at most ``limit``, or at least. It decides nothing if it was ``tried`` on less."""

    claim: str
    found: float | None
    limit: float
    at_least: bool = False
    tried: bool = True

    def __str__(self) -> str:
        found = "missing" if self.found is None else f"{self.found:.2f}"
        return f"| {self.claim} | {'at least' if self.at_least else 'at most'} {self.limit:g} | {found} | {self._met} |"

    @property
    def _met(self) -> str:
        if self.found is None or not self.tried:
            return ""
        return "yes" if (self.found >= self.limit if self.at_least else self.found <= self.limit) else "no"


def claims(bars: Iterable[Bar]) -> str:
    """Give claims as a table in Markdown."""
    return table(["claim", "bound", "found", "met"], map(str, bars))


def table(head: Sequence[str], rows: Iterable[str]) -> str:
    """Give rows, which are Markdown already, under a head."""
    return "\n".join([f"| {' | '.join(head)} |", "|---" * len(head) + "|", *rows])


def is_installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def setting(packages: Iterable[str]) -> str:
    """Say when and where, and name the packages that are here."""
    found = ", ".join(f"{package} {version(package)}" for package in sorted(packages) if is_installed(package))
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {platform.python_implementation()} {platform.python_version()}, "
        f"{platform.system()} {platform.release()}, {_processor()}; {found}."
    )


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} logical cores" if names else platform.machine()


def peak_kib() -> int:
    """The most memory this process has had. Not getrusage's figure: a child inherits that of its parent."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(status.read_text(encoding="utf-8").partition("VmHWM:")[2].split()[0])


@frozen
class Entry:
    """One bar of a plot."""

    value: float
    name: str
    is_ours: bool


def plot(label: str, groups: Iterable[tuple[str, Sequence[Entry]]], lowest: float) -> str:
    """Give groups of bars on a logarithmic scale, which begins at ``lowest``, as SVG; the shortest bar first."""
    parts: list[str] = []
    top = 30
    for title, entries in groups:
        ordered = sorted(entries, key=lambda entry: entry.value)
        scale = (WIDTH - LEFT - 70) / log10(ordered[-1].value / lowest)
        parts.append(f'<text x="8" y="{top}" class="group">{title}</text>')
        for entry in ordered:
            top += ROW
            length = max(2.0, scale * log10(entry.value / lowest))
            kind = "ours" if entry.is_ours else "peer"
            parts.append(f'<text x="{LEFT - 6}" y="{top + 4}" class="name">{entry.name}</text>')
            parts.append(f'<rect x="{LEFT}" y="{top - 7}" width="{length:.0f}" height="12" class="{kind}"/>')
            parts.append(f'<text x="{LEFT + length + 5:.0f}" y="{top + 4}">{entry.value:.2f}</text>')
        top += 2 * ROW
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top}" role="img" aria-label="{label}">'
        f"<style>{STYLE}</style>\n" + PAPER + "\n".join(parts) + "\n</svg>\n"
    )


def write_page(page: Path, script: str, text: str, picture: str | None = None) -> None:
    """Put figures below the page's marker, and the plot, where there is one, beside the page."""
    marker = f"<!-- Everything below is written by benchmarks/{script}.py. -->"
    before, _, _ = page.read_text(encoding="utf-8").partition(marker)
    page.write_text(f"{before}{marker}\n\n{text}", encoding="utf-8")
    if picture is not None:
        page.with_name(f"{script}.svg").write_text(picture, encoding="utf-8")
