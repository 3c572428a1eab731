"""Run a step function on symbols and write down what it does; knows nothing of C++.

A `Symbol` stands for a tensor whose rows are the step's tokens or sampled sequences. Catalogue ops
of this plugin record themselves as nodes; slices and reshapes of a row become column ranges; any
other torch function on symbols is *deferred*: replayed in torch before or after the program.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import torch
from torch import Tensor

__all__ = ["Columns", "Deferred", "Node", "NotLoweredError", "Recording", "Symbol", "captured"]


class NotLoweredError(Exception):
    """The step does something no instruction does; the message names it."""


@dataclass(eq=False, slots=True)
class Node:
    """One recorded op; its result is a row of `width` numbers for each token or sample."""

    op: str
    inputs: tuple[Columns, ...]
    attributes: Mapping[str, Any]
    width: int
    per_sample: bool = False
    dtype: torch.dtype = torch.float32
    """Of the numbers as the model knows them; rows of a program are float32 always."""

    @property
    def rounded(self) -> bool:
        """Whether rounding its numbers to bfloat16 loses nothing that the model asked for."""
        return self.dtype == torch.bfloat16


@dataclass(frozen=True, slots=True)
class Columns:
    """Columns [at, at + width) of a node's result."""

    node: Node
    at: int
    width: int


@dataclass(eq=False, slots=True)
class Deferred:
    """A torch call to be made later with real tensors; `before` = it needs no program result."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    before: bool
    part: int | None = None
    """Which member of a tuple result this is; None = the result itself."""


@dataclass(slots=True)
class Recording:
    """Everything one run of the step function did, in order."""

    nodes: list[Node] = field(default_factory=list)

    def add(
        self,
        op: str,
        inputs: tuple[Symbol, ...],
        tail: tuple[int, ...],
        per_sample: bool | None = None,
        dtype: torch.dtype | None = None,
        **attributes: Any,
    ) -> Symbol:
        """Record an op over rows; returns the symbol of its result with row shape `tail`."""
        columns = tuple(symbol.columns(op) for symbol in inputs)
        if per_sample is None:
            per_sample = bool(columns) and columns[0].node.per_sample
        kind = dtype or (inputs[0].meta.dtype if inputs else torch.float32)
        node = Node(op, columns, attributes, prod(tail), per_sample, kind)
        self.nodes.append(node)
        rows = SAMPLES if per_sample else TOKENS
        meta = torch.empty(rows, *tail, dtype=kind, device="meta")
        return Symbol(meta, self, Columns(node, 0, node.width))


TOKENS, SAMPLES = 10007, 5003
"""Row counts during capture: primes that no model dimension equals."""
_MOST_ZEROS = 1 << 22


class Symbol(Tensor):
    """A stand-in tensor; see the module's docstring."""

    meta: Tensor
    recording: Recording
    source: Columns | Deferred | str

    @staticmethod
    def __new__(
        cls, meta: Tensor, recording: Recording, source: Columns | Deferred | str
    ) -> Symbol:
        """`source`: columns of a node, a deferred call, or the name of an input."""
        host = torch.device("cpu")
        made = Tensor._make_wrapper_subclass(cls, meta.shape, dtype=meta.dtype, device=host)
        made.meta, made.recording, made.source = meta, recording, source
        return made

    def __init__(self, meta: Tensor, recording: Recording, source: object) -> None:
        """Everything is set in `__new__`, as tensor subclasses need."""

    def columns(self, user: str) -> Columns:
        """The node columns this symbol names. Raises NotLoweredError when it is no such thing."""
        if isinstance(self.source, Columns):
            return self.source
        raise NotLoweredError(f"{user} on a value that torch computes")

    @property
    def before(self) -> bool:
        """Whether it depends on the step's inputs alone."""
        return isinstance(self.source, str) or (
            isinstance(self.source, Deferred) and self.source.before
        )

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """Nothing may reach a symbol's storage: it has none."""
        raise NotLoweredError(f"{func} on a symbol")

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            name = getattr(func, "__name__", str(func))
            if name in ("__get__", "dim", "size", "numel", "stride", "is_floating_point"):
                return func(*args, **kwargs)
            if name in ("__repr__", "__format__"):
                return f"Symbol{tuple(args[0].meta.shape)}"
            handler = _HANDLERS.get(name)
            handled = handler(*args, **kwargs) if handler else None
            return _defer(func, args, kwargs) if handled is None else handled


def captured(function: Callable[..., Any], record: Callable[..., Any]) -> Callable[..., Any]:
    """The kernel that computes with `function`, but records by `record(recording, ...)` on symbols.

    The first argument decides, so the cost outside of capture is one type comparison.
    """

    def kernel(x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if type(x) is Symbol:
            return record(x.recording, x, *args, **kwargs)
        return function(x, *args, **kwargs)

    kernel.__name__, kernel.__doc__ = function.__name__, function.__doc__
    return kernel


def _symbols(value: Any) -> list[Symbol]:
    if type(value) is Symbol:
        return [value]
    if isinstance(value, (tuple, list)):
        return [symbol for item in value for symbol in _symbols(item)]
    return []


def _metas(value: Any) -> Any:
    if type(value) is Symbol:
        return value.meta
    if isinstance(value, (tuple, list)):
        return type(value)(_metas(item) for item in value)
    if isinstance(value, Tensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    return value


def _defer(func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    symbols = _symbols(args) + _symbols(tuple(kwargs.values()))
    before = all(symbol.before for symbol in symbols)
    name = getattr(func, "__name__", str(func))
    if name.endswith("_") and not name.endswith("__") or name == "__setitem__":
        raise NotLoweredError(f"{name} writes in place")
    try:
        result = _outcome(func, args, kwargs)
    except RuntimeError as error:
        raise NotLoweredError(f"{name}: {error}") from error
    recording = symbols[0].recording
    if isinstance(result, Tensor):
        return Symbol(_metas(result), recording, Deferred(func, args, kwargs, before))
    if isinstance(result, (tuple, list)) and all(isinstance(item, Tensor) for item in result):
        whole = Deferred(func, args, kwargs, before)
        return tuple(
            Symbol(
                _metas(item),
                recording,
                Deferred(lambda value, at=at: value[at], (whole,), {}, before),
            )
            for at, item in enumerate(result)
        )
    raise NotLoweredError(f"{name} asks for a number on the host")


def _outcome(func: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Something with the shapes and dtypes of a call's result.

    Small calls are made on zeros: asking torch for shapes alone imports its compiler at the first
    elementwise call, more than a second of every start.
    """
    given = [*args, *kwargs.values()]
    stand_in = _zeros if sum(map(_size, given)) <= _MOST_ZEROS else _metas
    return func(*stand_in(args), **{key: stand_in(value) for key, value in kwargs.items()})


def _size(value: Any) -> int:
    """Numbers in its tensors."""
    if isinstance(value, (tuple, list)):
        return sum(map(_size, value))
    return prod(_metas(value).shape) if isinstance(value, Tensor) else 0


def _zeros(value: Any) -> Any:
    if type(value) is Symbol:
        return torch.zeros((), dtype=value.meta.dtype).expand(value.meta.shape)
    if isinstance(value, (tuple, list)):
        return type(value)(_zeros(item) for item in value)
    return value


def _as(symbol: Symbol, meta: Tensor, at: int, width: int) -> Symbol:
    columns = symbol.source
    assert isinstance(columns, Columns)
    return Symbol(meta, symbol.recording, Columns(columns.node, columns.at + at, width))


def _reshape(symbol: Symbol, *shape: Any) -> Symbol | None:
    """view, reshape and flatten that keep the rows."""
    if not isinstance(symbol.source, Columns):
        return None
    sizes = shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
    meta = symbol.meta.reshape(tuple(sizes))
    if meta.shape[0] != symbol.meta.shape[0]:
        return None
    return _as(symbol, meta, 0, symbol.source.width)


def _flatten(symbol: Symbol, start_dim: int = 0, end_dim: int = -1) -> Symbol | None:
    return (
        None if start_dim == 0 else _reshape(symbol, *symbol.meta.flatten(start_dim, end_dim).shape)
    )


def _unflatten(symbol: Symbol, dim: int, sizes: Any) -> Symbol | None:
    return None if dim == 0 else _reshape(symbol, *torch.unflatten(symbol.meta, dim, sizes).shape)


def _split(symbol: Symbol, sizes: Any, dim: int = 0) -> tuple[Symbol, ...] | None:
    if not isinstance(symbol.source, Columns) or dim % symbol.meta.dim() != 1:
        return None
    inner = prod(symbol.meta.shape[2:])
    parts, at = [], 0
    for meta in torch.split(symbol.meta, sizes, 1):
        width = meta.shape[1] * inner
        parts.append(_as(symbol, meta, at, width))
        at += width
    return tuple(parts)


def _chunk(symbol: Symbol, chunks: int, dim: int = 0) -> tuple[Symbol, ...] | None:
    size = symbol.meta.shape[dim]
    return None if size % chunks else _split(symbol, size // chunks, dim)


def _same(symbol: Symbol, *args: Any, **kwargs: Any) -> Symbol | None:
    """Casts and copies: programs compute in float32 throughout."""
    return symbol if isinstance(symbol.source, Columns) else None


def _select(symbol: Any, index: Any) -> Symbol | None:
    """rows[index] for the sampled rows."""
    if type(symbol) is not Symbol or not isinstance(symbol.source, Columns):
        return None
    if type(index) is not Symbol or not index.before or symbol.source.node.per_sample:
        return None
    return symbol.recording.add(
        "select", (symbol,), tuple(symbol.meta.shape[1:]), per_sample=True, rows=index
    )


def _index_select(symbol: Any, dim: int, index: Any) -> Symbol | None:
    return _select(symbol, index) if dim == 0 else None


def _scaled(symbol: Any, factor: Any) -> Symbol | None:
    if type(symbol) is not Symbol:
        symbol, factor = factor, symbol
    if not isinstance(factor, (int, float)) or not isinstance(symbol.source, Columns):
        return None
    tail = tuple(symbol.meta.shape[1:])
    return symbol.recording.add("scale", (symbol,), tail, factor=float(factor))  # type: ignore[no-any-return]


def _divided(symbol: Any, divisor: Any) -> Symbol | None:
    return _scaled(symbol, 1.0 / divisor) if isinstance(divisor, (int, float)) else None


def _added(left: Any, right: Any, *, alpha: float = 1) -> Symbol | None:
    if type(left) is not Symbol or type(right) is not Symbol or alpha != 1:
        return None
    if not (isinstance(left.source, Columns) and isinstance(right.source, Columns)):
        return None
    return left.recording.add("add", (left, right), tuple(left.meta.shape[1:]))


def _tanh(symbol: Symbol) -> Symbol | None:
    if not isinstance(symbol.source, Columns):
        return None
    return symbol.recording.add("tanh", (symbol,), tuple(symbol.meta.shape[1:]))


_HANDLERS: Mapping[str, Callable[..., Any]] = {
    "view": _reshape,
    "reshape": _reshape,
    "flatten": _flatten,
    "unflatten": _unflatten,
    "split": _split,
    "split_with_sizes": _split,
    "chunk": _chunk,
    "contiguous": _same,
    "to": _same,
    "float": _same,
    "type_as": _same,
    "__getitem__": _select,
    "index_select": _index_select,
    "mul": _scaled,
    "__mul__": _scaled,
    "__rmul__": _scaled,
    "div": _divided,
    "__truediv__": _divided,
    "true_divide": _divided,
    "add": _added,
    "__add__": _added,
    "tanh": _tanh,
}
