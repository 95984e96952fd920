"""Tests and benchmarks hang on public behaviour and on named points: no private name of ours is patched, read
or imported there, so that code can move (docs/contributing.md).

A private name is one with a leading underscore that `services` or `schemas` give to something: a function, a
method, an attribute, a value of a module. What other libraries call theirs is no concern of this.
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = ("services", "schemas")
WATCHED = ("tests", "bench")
PRIVATE = re.compile(r"_[A-Za-z]\w*")
PATCHES = frozenset({"setattr", "delattr", "object", "patch", "multiple", "hasattr", "getattr", "attrgetter"})
"""The last name of what takes the name of an attribute as text: monkeypatch's, mock's and the builtins."""


def sources(*folders: str) -> Iterator[tuple[str, ast.Module]]:
    """Each module below `folders`, with its path."""
    for folder in folders:
        for path in sorted((ROOT / folder).rglob("*.py")):
            if "node_modules" not in path.parts:
                yield str(path.relative_to(ROOT)), ast.parse(path.read_text())


def private(name: str) -> bool:
    return PRIVATE.fullmatch(name) is not None


def given(tree: ast.AST) -> Iterator[str]:
    """The private names that a module gives to something."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield name


def names_of_ours() -> frozenset[str]:
    return frozenset(name for _, tree in sources(*OURS) for name in given(tree) if private(name))


@cache
def names_in(module: str, name: str) -> frozenset[str]:
    """The private names of the class `name` of a module of ours; none when it is no class there."""
    path = ROOT / f"{module.replace('.', '/')}.py"
    body = ast.parse(path.read_text()).body if path.exists() else []
    found = (node for node in body if isinstance(node, ast.ClassDef) and node.name == name)
    return frozenset(given(next(found, ast.Module([], []))))


class Finder(ast.NodeVisitor):
    """Finds where a module takes one of the names `ours`."""

    def __init__(self, ours: frozenset[str]) -> None:
        self.ours = ours
        self.found: list[tuple[int, str]] = []
        self.mine: list[set[str]] = []
        """What the classes around here give to themselves, and do not have of a class of ours."""
        self.imported: dict[str, str] = {}
        """From where the names come that are imported from us."""

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        mine = set(given(node))
        for base in node.bases:
            name = base.id if isinstance(base, ast.Name) else ""
            theirs = {given for given in names_in(self.imported.get(name, ""), name) if private(given)}
            for taken in sorted(mine & theirs):
                self.take(node, taken)
            mine -= theirs
        self.mine.append(mine)
        self.generic_visit(node)
        self.mine.pop()

    def visit_Attribute(self, node: ast.Attribute) -> None:
        of_itself = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
        if not (of_itself and any(node.attr in mine for mine in self.mine)):
            self.take(node, node.attr)
        self.generic_visit(node)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        if (node.module or "").split(".")[0] in OURS:
            for alias in node.names:
                self.imported[alias.asname or alias.name] = node.module or ""
                self.take(node, alias.name)

    def visit_Call(self, node: ast.Call) -> None:
        called = node.func
        name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
        if name in PATCHES:
            for argument in node.args:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    self.take(node, argument.value.rpartition(".")[2])
            for keyword in node.keywords:
                self.take(node, keyword.arg or "")
        self.generic_visit(node)

    def take(self, node: ast.AST, name: str) -> None:
        if private(name) and name in self.ours:
            self.found.append((node.lineno, name))  # type: ignore[attr-defined]


def taken(tree: ast.Module, ours: frozenset[str]) -> list[tuple[int, str]]:
    """The lines of a module that take a name of ours, and the names."""
    finder = Finder(ours)
    finder.visit(tree)
    return finder.found


def test_no_private_name_of_ours_is_taken() -> None:
    ours = names_of_ours()
    found = [f"{path}:{line} {name}" for path, tree in sources(*WATCHED) for line, name in taken(tree, ours)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "code",
    [
        'patch.object(Feed, "_start", start)',
        'monkeypatch.setattr(feed, "_start", start)',
        'monkeypatch.setattr("services.replay.feed.Feed._start", start)',
        'patch("services.replay.feed._start")',
        "patch.multiple(Feed, _start=start)",
        "feed._start = start",
        "del feed._start",
        "feed.run(feed._start)",
        "from services.replay.feed import _start",
        "def start(self: Feed): self._start()",
        "class Late(Feed):\n    def run(self): self._start()",
        "from services.replay.feed import Feed\nclass Late(Feed):\n    def _start(self): pass",
        "from services.replay.feed import Feed\nclass Late(Feed):\n    def run(self): self._start = 1",
    ],
)
def test_it_would_be_seen(code: str) -> None:
    assert "_start" in {name for _, name in taken(ast.parse(code), frozenset({"_start"}))}


@pytest.mark.parametrize(
    "code",
    [
        "point._replace(x=1)",
        'patch.object(Feed, "run", start)',
        "class Own:\n    def __init__(self): self._start = 1\n    def go(self): return self._start",
        "from openai import _start",
    ],
)
def test_what_is_its_own_or_anothers_is_free(code: str) -> None:
    assert not taken(ast.parse(code), frozenset({"_start"}))
