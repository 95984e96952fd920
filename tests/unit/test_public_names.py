"""No two public names are the same, unless they are the same thing."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
DEFINITION = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
SAME = {
    "Deleted": "a response that is deleted: as a record says it, and as a reader finds it",
    "Partition": "a followed partition, as a service has it",
    "Service": "the pieces of one process",
    "Terms": "what holds for every new response",
    "Tombstone": "a record without a value, as a topic has it",
    "load": "what is configured, from where an operator has it",
    "main": "where a process begins",
    "parse": "what a text or a record says",
    "run": "a process, from its start to its end",
    "serve": "a service, from its start to its end",
    "show": "let the gauges read what they show",
}
"""The names that stand in two or more modules, and what each of them is in all of these."""


def public(module: Path) -> Iterator[str]:
    for node in ast.parse(module.read_text()).body:
        if isinstance(node, DEFINITION) and not node.name.startswith("_"):
            yield node.name


def test_a_public_name_stands_in_one_module_unless_it_is_the_same_thing_in_all() -> None:
    modules = [module for part in ("schemas", "services") for module in (ROOT / part).rglob("*.py")]
    counts = Counter(name for module in modules for name in set(public(module)))

    assert {name for name, count in counts.items() if count > 1} == SAME.keys()
