"""Finds the application that a command is about, named ``module:attribute`` as other tools do."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

from fanout_briefs.briefs import Briefs

__all__ = ["NoApplication", "load"]


class NoApplication(Exception):
    """The name leads to no application. The message says what is missing."""


def load(name: str) -> Briefs:
    """The ``Briefs`` that ``name`` stands for, or that calling it gives; the working directory is searched first.

    Raises:
        NoApplication: There is none by that name.
        Exception: What importing the module raises.
    """
    module_name, colon, attribute = name.partition(":")
    if not (module_name and colon and attribute):
        raise NoApplication(f"{name!r} names no application: write module:attribute, such as myapp:briefs")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    try:
        found: object = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is not None and module_name.startswith(error.name):
            raise NoApplication(f"there is no module {error.name!r} here in {here}, nor on the Python path") from error
        raise
    for part in attribute.split("."):
        if not hasattr(found, part):
            raise NoApplication(f"module {module_name!r} has no attribute {attribute!r}")
        found = getattr(found, part)
    if callable(found):
        found = found()
    if not isinstance(found, Briefs):
        raise NoApplication(f"{name!r} is a {type(found).__name__}, not a Briefs, nor a function that returns one")
    return found
