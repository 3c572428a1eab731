"""What the check of one body finds: problems that refuse it and notices that accompany it."""

from __future__ import annotations

from dataclasses import dataclass, field
from difflib import get_close_matches

from inferplane.server.errors import ApiError, Problem
from inferplane.server.warnings import Warnings

__all__ = ["Report"]

_MAX_PROBLEMS = 10


@dataclass(slots=True)
class Report:
    """Collects while a body is walked. With `strict`, every notice is a problem instead."""

    strict: bool = False
    problems: list[Problem] = field(default_factory=list)
    warnings: Warnings = field(default_factory=Warnings)

    def wrong(self, code: str, param: str, message: str, hint: str = "") -> None:
        """Note a reason to refuse the request; the first ten are kept."""
        if len(self.problems) < _MAX_PROBLEMS:
            self.problems.append(Problem(code, message, param or None, hint))

    def unknown(self, param: str, name: str, known: list[str]) -> None:
        """A field that no table knows."""
        close = get_close_matches(name[:64], known, n=1)
        if self.strict:
            hint = f"did you mean {close[0]}?" if close else "leave it out"
            self.wrong("unknown_field", param, f"{param} is not a field of this route", hint)
        elif close:
            self.warnings.add("unknown_field", param, did_you_mean=close[0])
        else:
            self.warnings.add("unknown_field", param)

    def notice(self, code: str, param: str, why: str, **details: object) -> None:
        """Something accepted but ignored or changed."""
        if self.strict:
            self.wrong("unsupported_parameter", param, f"{param}: {why}", "strict mode is on")
        else:
            self.warnings.add(code, param, **details)

    def raise_problems(self) -> None:
        """Raises ApiError when there is any problem."""
        if self.problems:
            raise ApiError(tuple(self.problems))
