"""Finds the application that a command is about, named ``module:attribute`` as other tools do."""

from __future__ import annotations

import importlib
import inspect
import sys
from pathlib import Path

from fanout_briefs.briefs import Briefs

__all__ = ["NoApplication", "load"]


class NoApplication(Exception):
    """No application was found under the name. The message says why; the cause is what its own code raised."""


def load(name: str) -> Briefs:
    """Return the ``Briefs`` called ``name``, or what calling it returns; the working directory is searched first.

    Raises:
        NoApplication: There is none by that name, or its own code fails; the cause is what that raised.
    """
    module_name, _, attribute = name.partition(":")
    parts = [*module_name.split("."), *attribute.split(".")]
    if not all(part.isidentifier() for part in parts) or module_name.endswith(".py"):
        hint = f"; {module_name!r} is a file, and its module is {module_name[:-3]!r}" if _is_file(module_name) else ""
        raise NoApplication(f"{name!r} names no application: write module:attribute, such as myapp:briefs{hint}")
    found = _import(module_name)
    for part in attribute.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise NoApplication(f"module {module_name!r} has no attribute {attribute!r}{_hint(found)}") from None
        except (Exception, SystemExit) as error:
            raise NoApplication(f"reading {attribute!r} of module {module_name!r} failed: {_told(error)}") from error
    return _briefs(name, found)


def _import(module_name: str) -> object:
    try:
        here = str(Path.cwd())
    except OSError as error:
        raise NoApplication(f"the working directory cannot be read: {error.strerror}; change to another one") from None
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        return importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and f"{module_name}.".startswith(f"{error.name}."):
            raise NoApplication(f"there is no module {error.name!r} in {here}, nor on the Python path") from None
        raise NoApplication(f"importing {module_name!r} failed: {_told(error)}") from error


def _briefs(name: str, found: object) -> Briefs:
    what = "is"
    if callable(found):
        try:
            found = found()
        except (Exception, SystemExit) as error:
            raise NoApplication(f"calling {name!r} failed: {_told(error)}") from error
        what = "returns"
    if inspect.iscoroutine(found):
        found.close()
    if not isinstance(found, Briefs):
        raise NoApplication(
            f"{name!r} {what} a {type(found).__name__}: give the name of a Briefs, or of a function that returns one"
        )
    return found


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _is_file(module_name: str) -> bool:
    return module_name.endswith(".py") and "/" not in module_name


def _hint(module: object) -> str:
    names = sorted(name for name, value in getattr(module, "__dict__", {}).items() if isinstance(value, Briefs))
    return f"; it has {', '.join(names)}" if names else ""
