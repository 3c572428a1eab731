"""Functions apart in the eyes of torch.compile, which keeps its programs by code object."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import TypeVar

__all__ = ["own_code"]

ResultT = TypeVar("ResultT")


def own_code(fn: Callable[..., ResultT]) -> Callable[..., ResultT]:
    """The same plain function on a code object of its own; anything else is returned as it is.

    A hundred buckets of one function would otherwise be a hundred guards to try at each call, and
    exceed torch's limit of recompilations.
    """
    if not isinstance(fn, FunctionType):
        return fn
    code = fn.__code__.replace()
    twin = FunctionType(code, fn.__globals__, fn.__name__, fn.__defaults__, fn.__closure__)
    twin.__kwdefaults__ = fn.__kwdefaults__
    return twin
