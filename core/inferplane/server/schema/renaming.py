"""Problems and notices of a prepared chat, told by the names of the dialect it came in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

from inferplane.errors import RequestError
from inferplane.server.errors import ApiError, Problem
from inferplane.server.schema.report import Report

__all__ = ["Renaming"]


class Renaming:
    """Chats are prepared by the field names of chat completions; clients know their own."""

    def __init__(self, names: Sequence[tuple[str, str]]) -> None:
        """(path of chat completions, path of the dialect); members below follow. The first that
        fits wins."""
        self._names = [(re.compile(re.escape(ours) + r"(?!\w)"), told) for ours, told in names]

    def param(self, param: str) -> str:
        """The dialect's path."""
        for ours, told in self._names:
            if found := ours.match(param):
                return told + param[found.end() :]
        return param

    def error(self, error: ApiError | RequestError) -> ApiError | RequestError:
        """The same error with the dialect's paths, in its texts too."""
        if isinstance(error, RequestError):
            told = self.param(error.param or "")
            text = str(error).replace(error.param, told) if error.param else str(error)
            return RequestError(error.code, text, told or None)
        problems = tuple(map(self._problem, error.problems))
        return ApiError(problems, error.headers, error.retry_after_s)

    def _problem(self, problem: Problem) -> Problem:
        if problem.param is None:
            return problem
        told = self.param(problem.param)
        return replace(problem, param=told, message=problem.message.replace(problem.param, told))

    def notices(self, report: Report) -> None:
        """Rename what was noticed so far."""
        entries = report.warnings.entries
        entries[:] = [replace(entry, param=self.param(entry.param)) for entry in entries]
