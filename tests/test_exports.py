"""What is public is said once, in ``__all__``, and it is true both ways."""

from __future__ import annotations

import ast
import enum
import importlib
import inspect
import pkgutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import fanout_briefs
from fanout_briefs import ports

FACADES = {"fanout_briefs"}


def public_modules() -> list[str]:
    below = pkgutil.walk_packages(fanout_briefs.__path__, "fanout_briefs.")
    names = [module.name for module in below if not any(part.startswith("_") for part in module.name.split("."))]
    return ["fanout_briefs", *names]


def defined_in(module: ModuleType) -> set[str]:
    """Public classes and functions that a module defines itself."""
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == module.__name__
    }


@pytest.mark.parametrize("name", public_modules())
def test_every_name_in_all_exists(name: str) -> None:
    module = importlib.import_module(name)
    missing = [public for public in getattr(module, "__all__", ()) if not hasattr(module, public)]
    assert missing == []


@pytest.mark.parametrize("name", sorted(set(public_modules()) - FACADES))
def test_every_public_class_and_function_is_in_all(name: str) -> None:
    module = importlib.import_module(name)
    assert sorted(defined_in(module) - set(getattr(module, "__all__", ()))) == []


@pytest.mark.parametrize("name", public_modules())
def test_every_public_name_is_documented(name: str) -> None:
    module = importlib.import_module(name)
    assert module.__doc__
    undocumented = [
        f"{owner}.{member}" if member else owner
        for owner in getattr(module, "__all__", ())
        for member, value in documentable(getattr(module, owner))
        if not inspect.getdoc(value)
    ]
    assert undocumented == []


def documentable(value: object) -> Iterator[tuple[str, object]]:
    """The value itself, and the public functions and properties of a class of ours."""
    if inspect.isfunction(value):
        yield "", value
    elif inspect.isclass(value) and value.__module__.startswith("fanout_briefs"):
        yield "", value
        for name, member in vars(value).items():
            is_described = inspect.isfunction(member) or isinstance(member, property)
            if not name.startswith("_") and is_described and not promised_by_a_port(value, name):
                yield name, member


def promised_by_a_port(adapter: type, method: str) -> bool:
    """Adapters do not repeat the prose of ``ports``."""
    return ".adapters." in adapter.__module__ and any(method in vars(getattr(ports, port)) for port in ports.__all__)


def test_whoever_uses_one_name_waits_for_what_it_needs_only() -> None:
    show = "import sys; print(*(name for name in sys.modules if name.startswith('fanout_briefs')))"
    told = subprocess.run(
        [sys.executable, "-c", f"import fanout_briefs; {show}; fanout_briefs.Schedule; {show}"],
        capture_output=True,
        text=True,
        check=True,
    )
    before, after = told.stdout.splitlines()
    assert before == "fanout_briefs"
    assert set(after.split()) == {
        "fanout_briefs",
        *(f"fanout_briefs.{name}" for name in ("errors", "model", "schedule")),
    }


def test_the_names_of_the_package_can_be_listed_and_a_wrong_one_is_told() -> None:
    assert [name for name in dir(fanout_briefs) if not name.startswith("__")] == sorted(fanout_briefs.__all__)
    assert sorted(fanout_briefs._MODULE_OF) == fanout_briefs.__all__  # pyright: ignore[reportPrivateUsage]
    with pytest.raises(AttributeError, match="module 'fanout_briefs' has no attribute 'Brifs'"):
        print(fanout_briefs.Brifs)  # type: ignore[attr-defined]


def names_in_typing_tests() -> set[str]:
    files = (Path(__file__).parent / "typing").glob("*.py")
    nodes = [node for file in files for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))]
    plain = {node.id for node in nodes if isinstance(node, ast.Name)}
    return plain | {node.attr for node in nodes if isinstance(node, ast.Attribute)}


def is_an_adapter(value: type) -> bool:
    port_classes: list[type] = [getattr(ports, port) for port in ports.__all__]
    methods = {method for port in port_classes for method in vars(port) if not method.startswith("_")}
    return value.__module__.startswith("fanout_briefs.adapters.") and not methods.isdisjoint(vars(value))


def test_typing_tests_name_every_port_adapter_and_closed_list() -> None:
    modules = [importlib.import_module(name) for name in public_modules()]
    public = {name: getattr(module, name) for module in modules for name in getattr(module, "__all__", ())}
    classes = {name: value for name, value in public.items() if inspect.isclass(value)}
    wanted = {name for name, value in classes.items() if issubclass(value, enum.Enum) or is_an_adapter(value)}
    assert {"MemoryStorage", "EmlMailer", "SyncMailer", "CeleryDispatcher", "JobStatus"} <= wanted
    assert sorted(wanted.union(ports.__all__) - names_in_typing_tests()) == []
