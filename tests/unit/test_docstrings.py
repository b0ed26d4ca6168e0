"""Docstrings tell `help()` something: they begin with a verb or a noun."""

import ast

import pytest
from helpers.paths import ROOT

# words that begin half a sentence
HALF = "All As At Both For From How If In None Of Or See What When Where Whether Which Why With"


def documented(tree):
    """Modules, classes and functions; of what is public at the top, also those without a docstring."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


@pytest.mark.parametrize("path", sorted((ROOT / "dapq_edge").rglob("*.py")), ids=lambda path: path.stem)
def test_they_begin_with_a_verb_or_a_noun(path):
    tree = ast.parse(path.read_text())
    top = {id(node) for node in tree.body}
    for node in documented(tree):
        name, text = getattr(node, "name", path.stem), ast.get_docstring(node)
        if text is None:
            assert name.startswith("_") or id(node) not in top, f"{name} has no docstring"
        else:
            assert text.split()[0].rstrip(".,:") not in HALF.split(), f"{name}: {text.splitlines()[0]}"
