"""From a recording to a native program: fuse by pattern, place rows in buffers, emit instructions.

Fusions: a norm or gate becomes the prologue of the linear that reads it; a residual addition the
epilogue of the linear or norm before it; head norms and rotation go with the write to the cache.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from inferplane_cpu.compiler.capture import Columns, Deferred, Node, NotLoweredError, Symbol
from inferplane_cpu.compiler.placement import IDS, Bindings, Pending, Place
from inferplane_cpu.compiler.weights import PackedWeights
from inferplane_cpu.native.coded import CodedPanelKV
from inferplane_cpu.native.library import Kind, Op, Prologue
from inferplane_cpu.native.machine import ProgramBuilder
from inferplane_cpu.native.packing import PackedWeight
from inferplane_cpu.native.panels import PanelKV

__all__ = ["Lowering"]


class Lowering:
    """Turns the nodes of one recording into instructions of `builder`."""

    def __init__(
        self,
        nodes: list[Node],
        outputs: list[Columns],
        builder: ProgramBuilder,
        weights: PackedWeights,
    ) -> None:
        self.builder = builder
        self.weights = weights
        self.bindings = Bindings()
        self.places: dict[Node, Place] = {}
        self.kinds: set[Kind] = set()
        """How the linears hold their weights."""
        self._nodes = nodes
        self._readers: dict[Node, list[Node]] = {node: [] for node in nodes}
        for node in nodes:
            for columns in node.inputs:
                self._readers[columns.node].append(node)
        self._left = Counter({node: len(readers) for node, readers in self._readers.items()})
        self._left.update(columns.node for columns in outputs)
        self._outputs = {columns.node for columns in outputs}
        self._pending: dict[Node, Pending] = {}
        self._free: dict[tuple[int, bool], list[int]] = {}
        self._handlers: Mapping[str, Callable[[Node], None]] = {
            "embedding": self._embedding,
            "rms_norm": self._rms_norm,
            "gate": self._gate,
            "linear": self._linear,
            "add": self._add,
            "scale": self._scale,
            "tanh": self._tanh,
            "select": self._select,
            "argmax": self._argmax,
            "attend": self._attend,
            "rotary": self._nothing,
        }

    def run(self) -> None:
        """Emit everything. Raises NotLoweredError naming what has no instruction."""
        for node in self._nodes:
            self._handlers[node.op](node)
        for node in self._outputs:
            self._place(Columns(node, 0, node.width))

    def _new(self, node: Node, width: int | None = None) -> Place:
        key = (width or node.width, node.per_sample)
        free = self._free.setdefault(key, [])
        return Place(free.pop() if free else self.builder.buffer(*key))

    def _place(self, columns: Columns) -> Place:
        """Where these columns are, computing a waiting norm if need be."""
        node = columns.node
        if node not in self.places:
            waiting = self._pending.pop(node, None)
            if waiting is None or waiting.prologue != Prologue.RMS:
                raise NotLoweredError(f"{node.op} is read by what cannot take it as a prologue")
            self.places[node] = place = self._new(node)
            self._norm_into(waiting, place, node, add=False)
        place = self.places[node]
        return Place(place.buffer, place.at + columns.at)

    def _consumed(self, columns: Columns) -> None:
        """One reader is done; the last one frees the buffer."""
        node = columns.node
        self._left[node] -= 1
        if self._left[node] == 0 and node in self.places:
            self._free.setdefault((node.width, node.per_sample), []).append(
                self.places[node].buffer
            )

    def _is_last(self, columns: Columns) -> bool:
        return self._left[columns.node] == 1 and columns.node not in self._outputs

    def _residual(self, node: Node) -> tuple[Node, Place] | None:
        """(the addition, the other summand's place) if `node` does nothing but be added to it."""
        readers = self._readers[node]
        if len(readers) != 1 or node in self._outputs or readers[0].op != "add":
            return None
        other = next((c for c in readers[0].inputs if c.node is not node), None)
        if other is None or other.node not in self.places or not self._is_last(other):
            return None
        return readers[0], self.places[other.node]

    def _added_into(self, total: Node, place: Place) -> None:
        """The sum took the place of its second summand."""
        self.places[total] = place
        for columns in total.inputs:
            self._left[columns.node] -= 1  # not freed: the buffer lives on as the sum

    # ops

    def _embedding(self, node: Node) -> None:
        ids: Symbol = node.attributes["ids"]
        if _differs(self.bindings.token_ids, ids):
            raise NotLoweredError("two embeddings of different ids")
        self.bindings.token_ids = ids
        weight = self._weight(node.attributes["weight"])
        self.places[node] = place = self._new(node)
        self.builder.emit(
            Op.EMBED,
            dst=place.buffer,
            k=node.width,
            kind=int(weight.kind),
            weight=self.builder.keep(weight.data),
            weight_scale=self.builder.keep(weight.scale),
        )

    def _rms_norm(self, node: Node) -> None:
        norm, source = node.attributes["weight"], node.inputs[0]
        waiting = Pending(Prologue.RMS, source, norm, node.attributes["eps"])
        residual = self._residual(node) if norm.numel() == node.width else None
        if residual is None:
            self._pending[node] = waiting
            return
        self._norm_into(waiting, residual[1], node, add=True)
        self._added_into(*residual)

    def _norm_into(self, waiting: Pending, place: Place, node: Node, add: bool) -> None:
        assert waiting.norm is not None
        if waiting.norm.numel() != node.width:
            raise NotLoweredError("a norm over parts of a row outside of attention")
        source = self._place(waiting.source)
        self.builder.emit(
            Op.NORM,
            src=source.buffer,
            src_at=source.at,
            dst=place.buffer,
            dst_at=place.at,
            n=node.width,
            add=int(add),
            per_sample=int(node.per_sample),
            norm=self.builder.keep(waiting.norm),
            eps=waiting.eps,
        )
        self._consumed(waiting.source)

    def _gate(self, node: Node) -> None:
        kind = Prologue.SILU_MUL if node.attributes["act"] == "silu" else Prologue.GELU_MUL
        self._pending[node] = Pending(kind, node.inputs[0])

    def _linear(self, node: Node) -> None:
        source = node.inputs[0]
        weight = self._weight(node.attributes["weight"])
        self.kinds.add(weight.kind)
        waiting = self._pending.get(source.node)
        whole = waiting is not None and source.width == source.node.width
        fused = waiting if whole and self._fits(waiting, source) else None
        read = fused.source if fused else source
        place = self._place(read)
        if fused and self._alone(fused.source, source):
            self.builder.gate(fused.prologue, place.buffer, weight.in_features)
        residual = self._residual(node)
        target = residual[1] if residual else self._new(node)
        bias = node.attributes.get("bias")
        self.builder.linear(
            weight,
            place.buffer,
            target.buffer,
            prologue=fused.prologue if fused else Prologue.NONE,
            norm=fused.norm if fused else None,
            eps=fused.eps if fused else 0.0,
            src_at=place.at,
            dst_at=target.at,
            bias=None if bias is None else bias.float(),
            add=int(residual is not None),
            per_sample=int(node.per_sample),
            rounded=int(source.node.rounded),
        )
        self._left[source.node] -= 1
        if fused and self._left[source.node] == 0:
            del self._pending[source.node]
            self._consumed(fused.source)
        elif not fused:
            self._left[source.node] += 1
            self._consumed(source)
        if residual:
            self._added_into(*residual)
        else:
            self.places[node] = target

    def _fits(self, waiting: Pending | None, source: Columns) -> bool:
        """Whether a waiting norm covers the whole row (head norms do not)."""
        return waiting is not None and (
            waiting.norm is None or waiting.norm.numel() == source.node.width
        )

    def _alone(self, wide: Columns, gated: Columns) -> bool:
        """Whether nothing reads `wide` but the gate, and nothing the gate but one linear."""
        both = (wide.node, gated.node)
        return all(len(self._readers[n]) == 1 and n not in self._outputs for n in both)

    def _weight(self, weight: Tensor | PackedWeight) -> PackedWeight:
        if isinstance(weight, PackedWeight):
            return weight
        return self.weights.pack(weight)

    def _add(self, node: Node) -> None:
        if node in self.places:  # a linear or norm already added itself
            return
        left, right = node.inputs
        if not self._is_last(right):
            left, right = right, left
        if not self._is_last(right):
            raise NotLoweredError("a sum whose summands are both needed later")
        source, target = self._place(left), self._place(right)
        self._unary(Op.ADD, node, source, target)
        self.places[node] = target
        self._left[right.node] -= 1
        self._consumed(left)

    def _scale(self, node: Node) -> None:
        self._in_place(Op.SCALE, node, node.attributes["factor"])

    def _tanh(self, node: Node) -> None:
        self._in_place(Op.SOFTCAP, node, 1.0)

    def _in_place(self, op: Op, node: Node, factor: float) -> None:
        source = node.inputs[0]
        place = self._place(source)
        last = self._is_last(source)
        target = place if last else self._new(node)
        self._unary(op, node, place, target, factor)
        self.places[node] = target
        if last:
            self._left[source.node] -= 1
        else:
            self._consumed(source)

    def _unary(self, op: Op, node: Node, source: Place, target: Place, factor: float = 1.0) -> None:
        self.builder.emit(
            op,
            src=source.buffer,
            src_at=source.at,
            dst=target.buffer,
            dst_at=target.at,
            n=node.width,
            per_sample=int(node.per_sample),
            scale=factor,
        )

    def _select(self, node: Node) -> None:
        rows: Symbol = node.attributes["rows"]
        if _differs(self.bindings.rows, rows):
            raise NotLoweredError("two selections of different rows")
        self.bindings.rows = rows
        source = self._place(node.inputs[0])
        self.places[node] = target = self._new(node)
        self._unary(Op.SELECT, node, source, target)
        self._consumed(node.inputs[0])

    def _argmax(self, node: Node) -> None:
        logits = node.inputs[0]
        source = self._place(logits)
        if not node.per_sample or any(place.buffer == IDS for place in self.places.values()):
            raise NotLoweredError("ids are chosen once, from logits")
        self.places[node] = Place(IDS)
        self.builder.emit(Op.ARGMAX, src=source.buffer, src_at=source.at, n=logits.width)
        self._consumed(logits)

    def _nothing(self, node: Node) -> None:
        """Rotation waits for the attention that reads it."""

    def _attend(self, node: Node) -> None:
        q, k, v = node.inputs
        a = node.attributes
        rotary = q.node if q.node.op == "rotary" else None
        fields: dict[str, Any] = {"rotary": 0}
        if rotary is not None:
            fields = self._rotation(rotary)
            q, k = rotary.inputs  # the rows before rotation
        norms = [self._head_norm(columns) for columns in (q, k)]
        q, k = (
            norm.source if norm else columns for norm, columns in zip(norms, (q, k), strict=True)
        )
        if not (q.node is k.node is v.node and q.at + q.width == k.at and k.at + k.width == v.at):
            raise NotLoweredError("queries, keys and values are not neighbours in one row")
        cache: PanelKV | CodedPanelKV = a["kv"]
        source = self._place(q)
        group = self._group(a["arrays"])
        fields |= {
            "src": source.buffer,
            "src_at": source.at,
            "group": group,
            "layer": self.builder.cache(cache.structure()),
            "heads": a["heads"],
            "kv_heads": a["kv_heads"],
            "dim": a["dim"],
            "dim_v": a["dim_v"],
        }
        self.builder.emit(
            Op.ROTARY,
            norm=self.builder.keep(norms[0].norm if norms[0] else None),
            norm_k=self.builder.keep(norms[1].norm if norms[1] else None),
            eps=norms[0].eps if norms[0] else 0.0,
            **fields,
        )
        self.places[node] = target = self._new(node)
        self.builder.emit(
            Op.ATTEND,
            **{
                **fields,
                "dst": target.buffer,
                "scale": a["scale"],
                "window": a["window"] or 0,
                "softcap": a["softcap"] or 0.0,
            },
        )
        # the row of q, k and v has no other readers
        self._left[q.node] = 1
        self._consumed(Columns(q.node, 0, q.node.width))

    def _rotation(self, rotary: Node) -> dict[str, Any]:
        tables = []
        for symbol in (rotary.attributes["cos"], rotary.attributes["sin"]):
            deferred = symbol.source
            name = getattr(getattr(deferred, "function", None), "__name__", "")
            if not isinstance(deferred, Deferred) or name != "index_select":
                raise NotLoweredError("rotary tables that are not rows of a table by position")
            table, dim, positions = deferred.args
            if dim != 0 or type(positions) is not Symbol:
                raise NotLoweredError("rotary tables that are not rows of a table by position")
            if _differs(self.bindings.positions, positions):
                raise NotLoweredError("rotary tables by different positions")
            self.bindings.positions = positions
            tables.append(table)
        if rotary.attributes["interleaved"]:
            raise NotLoweredError("interleaved rotation")
        cos, sin = (table.float().contiguous() for table in tables)
        return {
            "rotary": 2 * cos.shape[1],
            "cos": self.builder.keep(cos),
            "sin": self.builder.keep(sin),
        }

    def _head_norm(self, columns: Columns) -> Pending | None:
        waiting = self._pending.pop(columns.node, None)
        if waiting is None:
            return None
        if waiting.prologue != Prologue.RMS:
            raise NotLoweredError("attention over a gated row")
        return waiting

    def _group(self, arrays: Mapping[str, Symbol]) -> int:
        for number, known in enumerate(self.bindings.groups):
            if all(known[name] is symbol for name, symbol in arrays.items()):
                return number
        self.bindings.groups.append(arrays)
        return len(self.bindings.groups) - 1


def _differs(known: Symbol | None, found: Symbol) -> bool:  # comparing would be an op of the step
    return known is not None and known is not found
