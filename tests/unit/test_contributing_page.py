"""The page for contributors leads to places that exist."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "contributing.md").read_text()
PLACE = re.compile(r"`((?:services|schemas|tests|docs|bench|deploy)/[\w/.-]*|pyproject\.toml)`")

NAME = re.compile(r"`(?:(\w+)\.)?(\w+)`\s\(`([\w/]+\.py)`\)")
"""A name, and in brackets the module that defines it."""


def test_every_place_that_the_page_names_is_there() -> None:
    named = PLACE.findall(PAGE)

    assert len(named) > 30
    assert not [place for place in named if not (ROOT / place).exists()]


def test_every_name_that_the_page_leads_to_is_defined_there() -> None:
    named = NAME.findall(PAGE)
    missing = []
    for within, name, place in named:
        tree = ast.parse((ROOT / place).read_text())
        there: list[ast.stmt] = tree.body
        if within:
            there = next((d.body for d in there if isinstance(d, ast.ClassDef) and d.name == within), [])
        if name not in {defined for statement in there for defined in _defined(statement)}:
            missing.append(f"{within}.{name} in {place}" if within else f"{name} in {place}")
    assert len(named) > 6
    assert not missing


def _defined(statement: ast.stmt) -> list[str]:
    match statement:
        case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            return [name]
        case ast.AnnAssign(target=ast.Name(id=name)) | ast.Assign(targets=[ast.Name(id=name)]):
            return [name]
    return []
