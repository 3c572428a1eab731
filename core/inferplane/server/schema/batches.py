"""The fields of POST /v1/batches."""

from __future__ import annotations

from collections.abc import Sequence

from inferplane.server.schema.fields import Field, State, Structure
from inferplane.server.schema.kinds import Json, OneOf, Text
from inferplane.server.schema.responses import metadata_field

__all__ = ["batch_structure"]


def batch_structure(endpoints: Sequence[str]) -> Structure:
    """The table."""
    return Structure(
        [
            Field("input_file_id", Text(1, 256), "An uploaded file of requests.", required=True),
            Field("endpoint", OneOf(tuple(endpoints)), "Where its lines go.", required=True),
            Field("completion_window", OneOf(("24h",)), "When it must be done.", required=True),
            metadata_field(),
            Field("output_expires_after", Json(dict), "results stay until deleted", State.NOTICED),
        ]
    )
