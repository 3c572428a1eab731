"""Every limit of the HTTP surface, with its documented default."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MEDIA_BODY_BYTES", "Limits"]

_MIB = 1024 * 1024
MEDIA_BODY_BYTES = 64 * _MIB


@dataclass(frozen=True, slots=True)
class Limits:
    """Breaking one is a 4xx that names it (docs/http-api.md 3.4)."""

    body_bytes: int = 8 * _MIB
    """MEDIA_BODY_BYTES for a model that takes pictures."""
    header_bytes: int = 32 * 1024
    header_fields: int = 100
    url_bytes: int = 8 * 1024
    json_depth: int = 64
    header_deadline_s: float = 10.0
    """Absolute, from the first byte of a request."""
    body_idle_s: float = 10.0
    body_deadline_s: float = 60.0
    write_stall_s: float = 60.0
    keep_alive_s: int = 30
    requests_per_connection: int = 10_000
    connections: int = 4096
    connections_per_address: int = 256
    """Loopback is exempt: a proxy has one address."""
    probe_connections: int = 64
    """Beyond `connections`, for probes alone."""
    messages: int = 4096
    prompts: int = 128
    pooled_inputs: int = 2048
    """Texts of one request for embeddings, scores or classes."""
    n: int = 128
    sequences: int = 256
    """n x prompts."""
    characters_per_token: int = 16
    """Prompt characters, for each token of context; checked before tokenising."""
    stop_strings: int = 16
    stop_characters: int = 256
    logprobs: int = 20
    prompt_logprob_entries: int = 2_000_000
    token_ids: int = 1024
    """Entries of logit_bias, allowed, bad and stop ids."""
    cache_salt_characters: int = 1024
    tools: int = 128
    media_items: int = 8
    """Pictures of one request."""
    media_bytes: int = 20_000_000
    """Of one picture, as it is sent."""
    media_pixels: int = 50_000_000
    media_fetch_s: float = 5.0
    audio_bytes: int = 25 * _MIB
    """Of one recording, as it is sent."""
    audio_s: float = 1800.0
    """How long a recording may last."""
    ping_s: float = 15.0
    """Longest silence of a stream."""
    request_s: float = 600.0
    stored_responses: int = 1000
    """For each key, like the next."""
    stored_bytes: int = 64 * _MIB
    stored_s: float = 3600.0
    file_bytes: int = 64 * _MIB
    files: int = 1000
    """For each key, like the next."""
    files_bytes: int = 1024 * _MIB
    batches: int = 8
    """Under way, for each key."""
    batch_lines: int = 50_000
    batch_at_once: int = 16
    """Lines under way, of all batches."""
