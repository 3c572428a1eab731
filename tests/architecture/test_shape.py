"""Files and functions stay small enough to read in one go."""

from __future__ import annotations

import ast

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60

LONG_FILES: dict[str, str] = {}
"""path -> why it is one concern. This list may only shrink."""

LONG_FUNCTIONS: dict[str, str] = {}
""""path:function" -> why it cannot be divided. This list may only shrink."""


def test_no_file_is_longer_than_one_can_read(sources: list) -> None:
    long = {s.path: n for s in sources if (n := s.text.count("\n")) > MAX_FILE_LINES}
    assert {p: n for p, n in long.items() if p not in LONG_FILES} == {}
    assert set(LONG_FILES) <= set(long), "an exception that is not needed any more"


def test_no_function_is_longer_than_a_screen(sources: list) -> None:
    long = {}
    for source in sources:
        for node in ast.walk(source.tree):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > MAX_FUNCTION_LINES:
                    long[f"{source.path}:{node.name}"] = lines
    assert {f: n for f, n in long.items() if f not in LONG_FUNCTIONS} == {}
    assert set(LONG_FUNCTIONS) <= set(long), "an exception that is not needed any more"


def test_no_file_is_named_after_nothing(sources: list) -> None:
    vague = {"utils.py", "helpers.py", "common.py", "misc.py"}
    assert [s.path for s in sources if s.path.rsplit("/", 1)[1] in vague] == []


def test_every_module_says_in_its_first_line_what_it_is_for(sources: list) -> None:
    silent = [s.path for s in sources if s.tree.body and not ast.get_docstring(s.tree)]
    assert silent == []


def test_nothing_is_global(sources: list) -> None:
    found = [
        f"{s.path}:{node.lineno}"
        for s in sources
        for node in ast.walk(s.tree)
        if isinstance(node, ast.Global)
    ]
    assert found == []


def test_nothing_is_left_for_later(sources: list) -> None:
    words = ("TODO", "FIXME", "XXX", "raise NotImplementedError")
    found = [
        f"{s.path}:{number}: {line.strip()}"
        for s in sources
        for number, line in enumerate(s.text.splitlines(), 1)
        if any(word in line for word in words)
    ]
    assert found == []
