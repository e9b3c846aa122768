# pyright: basic
# cosmic-ray and parso ship no types.
"""Which mutants a file has: cosmic-ray's operators, without those that tell nothing, and one operator of our own."""

from __future__ import annotations

import ast
import pickle
import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice, takewhile
from pathlib import Path
from typing import Any

import parso
from attrs import frozen
from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.operators.operator import Example, Operator
from cosmic_ray.operators.provider import OperatorProvider

__all__ = ["Mutant", "RemoveStatement", "mutants_of"]

# Each arithmetic operator becomes one other. cosmic-ray has eleven for each, of which most are a TypeError at once:
# they would be killed by any test at all and make the figures look better than the tests are.
_BINARY = {
    "Add_Sub",
    "Sub_Add",
    "Mul_FloorDiv",
    "Div_Mul",
    "FloorDiv_Mul",
    "Mod_FloorDiv",
    "BitOr_BitAnd",
    "BitAnd_BitOr",
}
# Identity is compared with identity only: `==` and `is` are the same for None, enums and small numbers.
_ORDER = {"Eq", "NotEq", "Lt", "LtE", "Gt", "GtE"}
_IDENTITY = {"Is", "IsNot"}
# These two need to be told a variable's name.
_NEED_ARGUMENTS = {"VariableReplacer", "VariableInserter"}


@frozen
class Mutant:
    """One change of one file.

    Attributes:
        path: The file, from the root of the repository.
        where: The class and function, dotted; empty at the module's level.
        was: The changed lines as they were, without their indentation, joined by spaces.
        became: The same lines after the change.
        nth: From 1, which of several equal changes in one function this is.
        line: The first changed line.
        operator: Which operator made it.
        code: The whole changed file.
    """

    path: str
    where: str
    was: str
    became: str
    nth: int
    line: int
    operator: str
    code: str

    @property
    def key(self) -> tuple[str, str, str, str, int]:
        """What names it, whatever moves it up or down in its file."""
        return self.path, self.where, self.was, self.became, self.nth


class RemoveStatement(Operator):
    """Puts ``pass`` where something is done for its effect: a call, a raise, a bare return, an attribute that is set."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[Any, Any]]:
        if node.type == "simple_stmt" and self._has_effect(node.children[0]):
            yield node.children[0].start_pos, node.children[0].end_pos

    def mutate(self, node: Any, index: int) -> Any:
        nothing = parso.parse("pass").children[0]
        nothing.prefix = node.get_first_leaf().prefix
        node.children[0] = nothing
        return node

    @classmethod
    def examples(cls) -> tuple[Example, ...]:
        return (Example("work()\n", "pass\n"), Example("self.done = True\n", "pass\n"))

    @staticmethod
    def _has_effect(statement: Any) -> bool:
        if statement.type == "expr_stmt":
            target, sign = statement.children[:2]
            return bool(target.type != "name" or (sign.type == "operator" and sign.value != "="))
        is_bare_return = statement.type == "keyword" and statement.value == "return"
        return is_bare_return or statement.type in {"atom_expr", "raise_stmt", "del_stmt", "yield_expr"}


def mutants_of(root: Path, path: str) -> list[Mutant]:
    """Every mutant of a file, by line; the same list for the same file."""
    source = (root / path).read_text(encoding="utf-8")
    meaning = _meaning(source)
    tree = get_ast(source)
    nodes, kept = list(ast_nodes(tree)), pickle.dumps(tree)
    seen: Counter[tuple[str, ...]] = Counter()
    mutants: list[Mutant] = []
    for name, operator in _operators():
        spots = [(at, nth) for at, node in enumerate(nodes) for nth, _ in enumerate(operator.mutation_positions(node))]
        for at, nth in spots:
            code = _mutated(kept, at, operator, nth)
            if _meaning(code) in {meaning, None}:
                continue
            was, became, line = _change(source, code)
            where = ".".join(_enclosing(nodes[at]))
            seen[where, was, became] += 1
            mutants.append(Mutant(path, where, was, became, seen[where, was, became], line, name, code))
    return sorted(mutants, key=lambda mutant: (mutant.line, mutant.operator, mutant.key))


def _mutated(kept: bytes, at: int, operator: Any, nth: int) -> str:
    """The code after one change. Operators change a tree in place; unpickling one is much faster than parsing."""
    tree = pickle.loads(kept)
    node = next(islice(ast_nodes(tree), at, None))
    changed = operator.mutate(node, nth)
    if changed is not node:
        siblings = node.parent.children
        place = next(place for place, sibling in enumerate(siblings) if sibling is node)
        siblings[place : place + 1] = [] if changed is None else [changed]
    return str(tree.get_code())


def _operators() -> Iterator[tuple[str, Any]]:
    provider = OperatorProvider()
    for name in provider:
        kind, _, change = name.partition("_")
        before, _, after = change.partition("_")
        if kind in _NEED_ARGUMENTS or (kind == "ReplaceBinaryOperator" and change not in _BINARY):
            continue
        if kind == "ReplaceComparisonOperator" and not any({before, after} <= kin for kin in (_ORDER, _IDENTITY)):
            continue
        operator: Any = provider[name]
        yield name, operator()
    yield RemoveStatement.__name__, RemoveStatement()


def _enclosing(node: Any) -> list[str]:
    """The names of the classes and functions around a node; a decorator is around nothing that it decorates."""
    names: list[str] = []
    while (node := node.parent) is not None:
        if node.type in {"funcdef", "classdef"}:
            names.insert(0, node.name.value)
    return names


def _change(before: str, after: str) -> tuple[str, str, int]:
    was, became = before.splitlines(), after.splitlines()
    start = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(was, became, strict=False)))
    rest = zip(reversed(was[start:]), reversed(became[start:]), strict=False)
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], rest))
    return _one_line(was[start : len(was) - same]), _one_line(became[start : len(became) - same]), start + 1


def _one_line(lines: list[str]) -> str:
    return re.sub(r"\s+", " ", " ".join(lines)).strip()


def _meaning(code: str) -> str | None:
    """What the interpreter makes of a file, without the annotations, which nobody evaluates; None if nothing."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError):
        return None
    for node in ast.walk(tree):
        for name in {"annotation", "returns"}.intersection(node._fields):
            setattr(node, name, None)
    return ast.dump(tree)
