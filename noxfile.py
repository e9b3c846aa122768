"""What a release must pass, each part in an environment of its own.

    uvx nox               # all of it
    uvx nox -s tests-3.13 # one part; what follows `--` is for pytest

The tests run on the wheel, in a copy of the project that has no ``src``.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nox

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "uv"
nox.options.reuse_existing_virtualenvs = True

ROOT = Path(__file__).parent
PROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
EXTRAS: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
PYTHONS = ["3.11", "3.12", "3.13"]
TEST = [need for need in nox.project.dependency_groups(PROJECT, "test") if not need.startswith("fanout-briefs")]
ADAPTERS = ["celery", "jinja", "opentelemetry", "pgqueuer", "postgres", "procrastinate", "unsubscribe"]
"""Extras that are for the module of ``fanout_briefs.adapters`` of the same name."""


def wheel(session: nox.Session) -> str:
    """Build the sdist, and of that the wheel, as they are published; or give the one that lies in ``$DIST``."""
    if "DIST" in os.environ:
        folder = Path(os.environ["DIST"])
    else:
        folder = Path(session.create_tmp()) / "dist"
        shutil.rmtree(folder, ignore_errors=True)
        session.run("uv", "build", "--quiet", "--out-dir", str(folder), str(ROOT), external=True)
    (built,) = folder.resolve().glob("*.whl")
    return str(built)


def without_src(session: nox.Session) -> None:
    """Copy all that tests need but the sources, and go there."""
    folder = Path(session.create_tmp()) / "elsewhere"
    shutil.rmtree(folder, ignore_errors=True)
    left_out = shutil.ignore_patterns(".*", "src", "uv.lock", "__pycache__", "dist", "site")
    shutil.copytree(ROOT, folder, ignore=left_out)
    # The example is a package of its own, whose sources are tested as they are.
    shutil.copytree(ROOT / "examples/redis_briefs/src", folder / "examples/redis_briefs/src")
    session.chdir(folder)
    # Of nox's own, which lies in the repository: what tests make there would find its configuration and its history.
    session.env.pop("TMPDIR", None)


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Run the tests on the wheel with the newest of everything, on asyncio and on trio."""
    session.install(f"{wheel(session)}[{','.join(EXTRAS)}]", *TEST)
    without_src(session)
    session.run("pytest", "--ignore=tests/packaging", *session.posargs)


@nox.session(python=PYTHONS[0])
def lowest(session: nox.Session) -> None:
    """Run the tests of the core on the wheel with the oldest of everything that it asks for."""
    # Those of the project are "direct" only where they stand themselves, and not behind a wheel's name.
    extras = [f"--extra={extra}" for extra in EXTRAS]
    session.install("--resolution=lowest-direct", "-r", str(ROOT / "pyproject.toml"), *extras)
    session.install("--no-deps", wheel(session))
    session.install(*TEST)
    session.run("uv", "pip", "list", external=True)
    without_src(session)
    session.run("pytest", "--ignore=tests/packaging", "-m", "not slow", *session.posargs)


@nox.session(python=PYTHONS)
def bare(session: nox.Session) -> None:
    """Plan, generate and deliver with nothing but what the core asks for; adapters say which extra they need."""
    session.install(wheel(session))
    session.run("python", "-W", "error", str(ROOT / "tests/packaging/bare.py"), *ADAPTERS)


@nox.session(python=PYTHONS[0])
def lowest_bare(session: nox.Session) -> None:
    """Do the same with the oldest of what the core asks for."""
    session.install("--resolution=lowest-direct", "-r", str(ROOT / "pyproject.toml"))
    session.install("--no-deps", wheel(session))
    session.run("python", "-W", "error", str(ROOT / "tests/packaging/bare.py"), *ADAPTERS)


@nox.session(python=PYTHONS[-1])
@nox.parametrize("extra", ADAPTERS)
def extra(session: nox.Session, extra: str) -> None:
    """Import an adapter with its extra alone."""
    session.install(f"{wheel(session)}[{extra}]")
    session.run("python", "-c", f"import fanout_briefs.adapters.{extra}")


@nox.session(python=PYTHONS[-1])
def command(session: nox.Session) -> None:
    """Run the command with its extra alone."""
    session.install(f"{wheel(session)}[cli]")
    session.run("fanout-briefs", "--help", silent=True)


@nox.session(python=PYTHONS[-1])
def lint(session: nox.Session) -> None:
    """Hold the code to its style, and the workflows to being safe."""
    session.install(*nox.project.dependency_groups(PROJECT, "lint"))
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("zizmor", "--offline", ".github")


@nox.session(python=PYTHONS[0])
def types(session: nox.Session) -> None:
    """Check types as strictly as both checkers can, and that all that is public has them."""
    session.run("uv", "sync", "--active", "--quiet", "--group=types", external=True)
    session.run("mypy")
    session.run("pyright")
    session.run("pyright", "--verifytypes", "fanout_briefs", "--ignoreexternal")


@nox.session(python=PYTHONS[-1])
def docs(session: nox.Session) -> None:
    """Build the documentation, where a broken link is an error."""
    session.run("uv", "sync", "--active", "--quiet", "--group=docs", external=True)
    session.run("mkdocs", "build", "--strict", "--quiet", "--site-dir", session.create_tmp())


@nox.session(python=PYTHONS[-1])
def audit(session: nox.Session) -> None:
    """Ask whether anything that we depend on is known to be vulnerable."""
    session.install(f"{wheel(session)}[{','.join(EXTRAS)}]", "pip-audit>=2.7")
    session.run("pip-audit", "--skip-editable", "--progress-spinner=off")
