"""The layers of docs/architecture.md, held to by reading every import in the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import fanout_briefs

ROOT = Path(fanout_briefs.__file__).parent
PURE = {"settled", "schedule", "engagement", "dedupe", "render", "timing"}
VALUES = {"model", "errors", "engine", "arguments"}
MAY_IMPORT: dict[str, set[str]] = {
    "errors": set(),
    "arguments": {"errors"},
    "model": set(),
    "engine": {"model"},
    "encoding": VALUES,
    "rules": VALUES,
    "ports": VALUES,
    **dict.fromkeys(PURE, VALUES),
    "source": VALUES,
    "settled": VALUES | {"source"},
    "eligibility": VALUES | PURE | {"ports"},
    "builder": VALUES | PURE | {"ports"},
    "delivery": VALUES | {"ports", "encoding"},
    "plans": VALUES | {"eligibility"},
    "scan": VALUES | PURE | {"ports", "eligibility"},
    "planner": VALUES | PURE | {"ports", "eligibility", "plans", "scan"},
    "screen": VALUES | PURE | {"ports", "eligibility"},
    "held": VALUES | PURE | {"screen", "runs"},
    "runs": VALUES,
    "dispatching": VALUES | {"ports"},
    "running": VALUES | PURE | {"ports", "eligibility", "screen", "held", "runs", "batching"},
    "worker": VALUES | {"held", "runs", "running"},
    "batching": set(),
    "single_jobs": VALUES | {"ports", "held", "runs", "running", "batching", "worker"},
    "serve": {"plans", "runs"},
    "explain": VALUES | PURE | {"ports", "eligibility", "delivery"},
    "operate": VALUES | PURE | {"ports", "eligibility", "delivery", "dispatching", "runs", "worker"},
}
USE_CASES = set(MAY_IMPORT)
MAY_IMPORT["briefs"] = USE_CASES
MAY_IMPORT["adapters"] = VALUES | {"ports", "encoding", "rules", "adapters"}
MAY_IMPORT["testing"] = VALUES | PURE | {"ports", "testing"}
MAY_IMPORT["cli"] = USE_CASES | {"briefs", "cli"}
MAY_IMPORT["__init__"] = USE_CASES | {"briefs"}


def source_files() -> list[Path]:
    return sorted(ROOT.rglob("*.py"))


def layer_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def own_imports(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno} imports relatively"
            module = node.module or ""
            names = [f"{module}.{alias.name}" for alias in node.names] if module == "fanout_briefs" else [module]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "fanout_briefs":
                yield node.lineno, name.split(".")[1] if "." in name else "__init__"


@pytest.mark.parametrize("path", source_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_only_from_the_layers_below_it(path: Path) -> None:
    allowed = MAY_IMPORT[layer_of(path)]
    offenders = [f"{path}:{line} imports {layer}" for line, layer in own_imports(path) if layer not in allowed]
    assert offenders == []


def test_importing_the_package_loads_no_adapter_no_test_tool_and_no_command_line() -> None:
    script = "import sys, fanout_briefs; print('\\n'.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()
    unwanted = {"pytest", "_pytest", "hypothesis", "typer", "click", "rich", "jinja2", "sqlite3", "trio", "smtplib"}
    assert unwanted.isdisjoint(loaded)
    optional = ("fanout_briefs.adapters", "fanout_briefs.cli", "fanout_briefs.testing")
    assert not [name for name in loaded if name.startswith(optional)]


def test_importing_the_contract_kit_loads_neither_pytest_nor_hypothesis() -> None:
    script = "import sys, fanout_briefs.testing; print('\\n'.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout.split()
    assert {"pytest", "_pytest", "hypothesis"}.isdisjoint(loaded)


def test_clauses_are_checked_without_pytest_and_hypothesis() -> None:
    script = """
import sys
sys.modules["pytest"] = sys.modules["hypothesis"] = None  # as though they were not installed
import anyio
from fanout_briefs.adapters.memory import MemoryStorage
from fanout_briefs.testing import check_storage
print(len(anyio.run(check_storage, MemoryStorage)))
try:
    from fanout_briefs.testing import StorageContract
except ImportError as error:
    print(error)
try:
    from fanout_briefs.testing import StorageMachine
except ImportError as error:
    print(error)
"""
    told = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True).stdout
    assert (
        told
        == "0\nthe contract classes need pytest: pip install 'fanout-briefs[testing]'; check_storage() does without\n"
        "the model machine needs Hypothesis: pip install 'fanout-briefs[testing]'\n"
    )
