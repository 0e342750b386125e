"""Limits of the code that neither ruff nor mypy knows (CONTRIBUTING.md)."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.waiting import ROOT

PACKAGES = (
    "icestream", "emitter", "bridge", "deployer", "recorder", "display", "tritonserver", "launcher", "export", "bench", "dashboards",
)  # fmt: skip
FILES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
MAX_LINES, MAX_FIELDS, MAX_POSITIONAL = 60, 4, 4
# Functions of other packages whose arguments are many of one kind.
# And the layers of the network, whose tensors have the order of the exported graph.
VARIADIC = {"print", "max", "min", "zip", "TypeVar", "local_root", "features"}


@pytest.fixture(params=FILES, ids=lambda path: str(path.relative_to(ROOT)))
def tree(request: pytest.FixtureRequest) -> ast.Module:
    path: Path = request.param
    return ast.parse(path.read_text())


def test_no_function_is_longer_than_a_page(tree: ast.Module) -> None:
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            assert node.body[-1].end_lineno is not None
            assert node.body[-1].end_lineno - node.lineno < MAX_LINES, f"{node.name} in line {node.lineno}"


def test_dataclasses_with_many_fields_take_them_by_name(tree: ast.Module) -> None:
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef) and any("dataclass" in ast.unparse(one) for one in node.decorator_list):
            fields = [ast.unparse(part.annotation) for part in node.body if isinstance(part, ast.AnnAssign)]
            positional = fields.index("KW_ONLY") if "KW_ONLY" in fields else len(fields)
            by_name = any("kw_only=True" in ast.unparse(one) for one in node.decorator_list)
            assert positional <= MAX_FIELDS or by_name, node.name


def test_calls_have_few_positional_arguments(tree: ast.Module) -> None:
    for node in calls(tree):
        assert len(node.args) <= MAX_POSITIONAL, f"line {node.lineno}: {ast.unparse(node)[:80]}"


def calls(tree: ast.Module) -> Iterator[ast.Call]:
    """Calls of functions of this repository or another, but for those whose arguments are many of one kind."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and not any(isinstance(argument, ast.Starred) for argument in node.args):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name not in VARIADIC:
                yield node
