"""How a simulation fails; each kind has its own exit code."""

from __future__ import annotations

__all__ = ["Stuck", "Violation"]


class Violation(AssertionError):
    """An invariant does not hold."""

    exit_code = 20

    def __init__(self, invariant: int, message: str) -> None:
        super().__init__(f"INV-{invariant}: {message}")
        self.invariant = invariant


class Stuck(Violation):
    """Faults have stopped and yet somebody does not finish."""

    exit_code = 21
