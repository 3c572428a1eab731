"""What was accepted but not, or not quite, obeyed: told in a header, counted, never silent."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["Notice", "Warnings"]

_MAX_ENTRIES = 20
_MAX_VALUE = 128


@dataclass(frozen=True, slots=True)
class Notice:
    """One entry: a code and what it is about."""

    code: str
    param: str = ""
    details: tuple[tuple[str, str], ...] = ()

    def render(self) -> str:
        """As a member of an RFC 8941 list: `unknown_field;param="top_pp"`."""
        pairs = ((("param", self.param),) if self.param else ()) + self.details
        return self.code + "".join(f';{name}="{_quoted(value)}"' for name, value in pairs)


@dataclass(slots=True)
class Warnings:
    """Those of one request."""

    entries: list[Notice] = field(default_factory=list)

    def add(self, code: str, param: str = "", **details: object) -> None:
        """Note one; details become its parameters."""
        told = tuple((name, str(value)) for name, value in details.items())
        self.entries.append(Notice(code, param, told))

    def header(self) -> str:
        """Value of `x-inferplane-warnings`; "" when there is nothing to say."""
        shown = [entry.render() for entry in self.entries[:_MAX_ENTRIES]]
        if len(self.entries) > _MAX_ENTRIES:
            shown.append(f"more;count={len(self.entries) - _MAX_ENTRIES}")
        return ", ".join(shown)


def _quoted(value: str) -> str:
    plain = "".join(c if " " <= c <= "~" else "?" for c in value[:_MAX_VALUE])
    return plain.replace("\\", "\\\\").replace('"', '\\"')
