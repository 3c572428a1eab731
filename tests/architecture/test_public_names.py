"""What a module exports is listed in its __all__: complete, sorted, and really there."""

from __future__ import annotations

import ast

import pytest

ENTRY_MODULES = ("plugin", "__main__", "hookspecs", "_sdk")
"""Their functions are hooks or a program's start; nobody imports them by name."""
HOOKS = {"hookimpl", "hookspec", "pytest.fixture"}


def exported(tree: ast.Module) -> list[str] | None:
    """The literal value of __all__, None when a module has none."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            names: list[str] = ast.literal_eval(node.value)
            return names
    return None


def defined(tree: ast.Module) -> set[str]:
    """Public classes and functions of a module's top level; hooks are found by their framework."""
    kinds = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    return {
        n.name
        for n in tree.body
        if isinstance(n, kinds)
        and not n.name.startswith(("_", "pytest_"))
        and not any(ast.unparse(d) in HOOKS for d in n.decorator_list)
    }


def test_every_public_class_and_function_is_exported(sources: list) -> None:
    """In the whole core, and wherever a plugin's module says what it exports."""
    hidden = {
        s.path: sorted(missing)
        for s in sources
        if s.module.rsplit(".", 1)[-1] not in ENTRY_MODULES
        and (s.module.split(".")[0] == "inferplane" or exported(s.tree) is not None)
        and (missing := defined(s.tree) - set(exported(s.tree) or ()))
    }
    assert hidden == {}


def test_every_list_of_exports_is_sorted_and_without_doubles(sources: list) -> None:
    """The order ruff keeps: constants, then classes, then functions, each by name."""
    for source in sources:
        names = exported(source.tree)
        if names is None:
            continue
        assert names == sorted(names, key=_order), source.path
        assert len(names) == len(set(names)), source.path


def test_every_exported_name_is_bound_in_its_module(sources: list) -> None:
    for source in sources:
        lazy = any(
            isinstance(n, ast.FunctionDef) and n.name == "__getattr__" for n in source.tree.body
        )
        names = exported(source.tree)
        if names is None or lazy:
            continue
        bound = {
            name.id if isinstance(name, ast.Name) else name.name
            for node in source.tree.body
            for name in _binders(node)
        }
        assert set(names) <= bound, (source.path, sorted(set(names) - bound))


@pytest.mark.parametrize("package", ["inferplane", "inferplane.interfaces", "inferplane.errors"])
def test_the_public_names_of_the_seam_can_be_imported(package: str) -> None:
    module = __import__(package, fromlist=["__all__"])
    for name in module.__all__:
        if name not in ("LLM", "Completion"):  # they need torch; their own tests import them
            assert getattr(module, name) is not None


def test_every_name_of_the_seam_is_offered_by_its_front_page(sources: list) -> None:
    """`from inferplane.interfaces import X` works for every X any of its modules exports."""
    names: set[str] = set()
    front: list[str] = []
    for source in sources:
        if source.module == "inferplane.interfaces":
            front = exported(source.tree) or []
        elif source.module.startswith("inferplane.interfaces."):
            names |= set(exported(source.tree) or ())
    assert names | {"INTERFACE_VERSION"} == set(front)


def _order(name: str) -> tuple[int, str]:
    if name.isupper() and len(name) > 1:
        return 0, name
    return (1 if name.lstrip("_")[:1].isupper() else 2), name


def _binders(
    node: ast.stmt,
) -> list[ast.Name | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    match node:
        case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
            return [node]
        case ast.Assign():
            return [t for t in node.targets if isinstance(t, ast.Name)]
        case ast.AnnAssign(target=ast.Name() as target):
            return [target]
        case ast.ImportFrom() | ast.Import():
            return [ast.Name(alias.asname or alias.name) for alias in node.names]
        case _:
            return []
