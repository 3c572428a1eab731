"""The generated parts of docs/hooks.md and docs/interfaces.md, read from the source of the seam."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

from inferplane import hookspecs, interfaces
from inferplane.registry import KINDS

__all__ = ["hooks", "seam"]

SEAM = Path(inspect.getfile(interfaces)).parent


def hooks() -> str:
    """Every hook in the order of declaration, with its docstring."""
    lines = ["| hook | offers |", "|---|---|"]
    for kind in KINDS:
        hook = getattr(hookspecs, f"register_{kind}")
        lines.append(f"| `{hook.__name__}` | {_one_line(inspect.getdoc(hook) or '')} |")
    return "\n".join(lines)


def seam() -> str:
    """Every public class and alias of the seam: fields, methods, and what is promised of them."""
    parts = []
    for path in sorted(SEAM.glob("*.py")):
        if path.name != "__init__.py":
            tree = ast.parse(path.read_text(encoding="utf-8"))
            parts.append(f"## {path.stem}\n\n{ast.get_docstring(tree) or ''}")
            parts += _entries(tree)
    return "\n\n".join(parts)


def _entries(tree: ast.Module) -> Iterator[str]:
    body = list(tree.body)
    for place, node in enumerate(body):
        told = _docstring_after(body, place)
        match node:
            case ast.ClassDef() if not node.name.startswith("_"):
                yield _class(node)
            case ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value):
                yield f"### {name}\n\n`{ast.unparse(value)}`" + (f"\n\n{told}" if told else "")
            case ast.Assign(targets=[ast.Name(id=name)]) if not name.startswith("_"):
                if name != "ResultT":
                    shown = ast.unparse(node.value)
                    yield f"### {name}\n\n`{shown}`" + (f"\n\n{told}" if told else "")
            case _:
                pass


def _class(node: ast.ClassDef) -> str:
    parts = [f"### {node.name}", f"*{_kind(node)}.* {ast.get_docstring(node) or ''}"]
    fields = [
        (f"`{_field(item)}`", _one_line(_docstring_after(node.body, place)))
        for place, item in enumerate(node.body)
        if isinstance(item, ast.AnnAssign)
    ]
    if fields:
        rows = "\n".join(
            f"| {name.replace('|', chr(92) + '|')} | {told} |" for name, told in fields
        )
        parts.append("| field | is |\n|---|---|\n" + rows)
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and _is_shown(item):
            parts.append(_method(item))
    return "\n\n".join(parts)


def _method(node: ast.FunctionDef) -> str:
    decorators = {ast.unparse(decorator) for decorator in node.decorator_list}
    need = "required" if "abstractmethod" in decorators else ""
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    words = [word for word in ("classmethod", "property") if word in decorators]
    head = f"`{node.name}({ast.unparse(node.args)}){returns}`"
    about = ", ".join([*words, need] if need else words)
    text = _one_line(ast.get_docstring(node) or "")
    return f"- {head}{f' ({about})' if about else ''}: {text}"


def _kind(node: ast.ClassDef) -> str:
    bases = {ast.unparse(base).split("[")[0] for base in node.bases}
    if "Protocol" in bases:
        return "Protocol"
    if "ABC" in bases:
        return "Abstract class"
    decorated = any("dataclass" in ast.unparse(d) for d in node.decorator_list)
    return "Data" if decorated else "Class"


def _field(node: ast.AnnAssign) -> str:
    default = f" = {ast.unparse(node.value)}" if node.value is not None else ""
    return f"{ast.unparse(node.target)}: {ast.unparse(node.annotation)}{default}"


def _is_shown(node: ast.FunctionDef) -> bool:
    return node.name == "__init__" or not node.name.startswith("_")


def _docstring_after(body: list[ast.stmt], place: int) -> str:
    """The string that stands below an assignment and describes it."""
    if place + 1 < len(body):
        match body[place + 1]:
            case ast.Expr(value=ast.Constant(value=str(text))):
                return text
            case _:
                pass
    return ""


def _one_line(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
