"""How a model marks its thoughts in tokens, and the limit that a request sets on them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from inferplane.sampling_params import Thinking
from inferplane.server.schema.report import Report
from inferplane.server.served_model import ServedModel

__all__ = ["NO_LIMIT", "think_ids", "thinking_limit"]

NO_LIMIT = -1
_FIELD = "thinking_token_budget"


def think_ids(model: ServedModel) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Tokens that begin and end thinking; (), () where the model has no such part."""
    start, end = model.pick.format.think
    if not start:
        return (), ()
    encode = model.tokenizer.encode
    return tuple(encode(start.rstrip())), tuple(encode(end))


def thinking_limit(
    model: ServedModel, found: Mapping[str, Any], begun: bool, report: Report
) -> Thinking | None:
    """The limit that checked chat fields set; None = none. `begun`: the prompt ends in thoughts."""
    budget = found.get(_FIELD, NO_LIMIT)
    if budget == NO_LIMIT:
        return None
    start, end = think_ids(model)
    if not end:
        report.notice("ignored_field", _FIELD, "this model does not mark its thoughts")
        return None
    return Thinking(budget=budget, start=start, end=end, begun=begun)
