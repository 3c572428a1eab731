"""Keys that open a server: known by digest, with scopes and limits, from a file or a setting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path

from inferplane.errors import ConfigError

__all__ = ["ApiKey", "key_of_text", "read_key_file"]


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key, known only by the SHA-256 of its bytes."""

    name: str
    digest: bytes
    scopes: tuple[str, ...] = ("infer", "metrics")
    requests_per_minute: int = 0
    """0 = as many as there is room for."""
    concurrent: int = 0
    """Requests at once; 0 = as many as its share has room for."""


_KEY_SCOPES = frozenset(("infer", "metrics", "admin"))


def key_of_text(value: object) -> tuple[ApiKey, ...]:
    """The one key of a setting, with every scope. Raises ValueError."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError
    digest = sha256(value.strip().encode()).digest()
    return (ApiKey("default", digest, ("infer", "metrics", "admin")),)


def read_key_file(path: Path) -> tuple[ApiKey, ...]:
    """The keys of a file with lines `NAME SHA256 SCOPE,SCOPE LIMIT=NUMBER …`; # begins a comment.

    Limits are `requests_per_minute` and `concurrent`. Raises ConfigError naming file and line. The
    server calls it again when the file changes.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"key file {path}: {reason}") from None
    keys: dict[str, ApiKey] = {}
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            key = _key_of_line(words)
        except ValueError as error:
            raise ConfigError(f"key file {path}, line {number}: {error}") from None
        if key.name in keys:
            raise ConfigError(f"key file {path}, line {number}: the name {key.name} is taken")
        keys[key.name] = key
    return tuple(keys.values())


def _key_of_line(words: Sequence[str]) -> ApiKey:
    """Raises ValueError saying what is wanted."""
    limits = dict(word.split("=", 1) for word in words if "=" in word)
    plain = [word for word in words if "=" not in word]
    shape = (
        "want NAME, the key's SHA-256 in hex, and optionally scopes joined by commas and limits "
        "such as requests_per_minute=60 concurrent=8"
    )
    if not 2 <= len(plain) <= 3 or not limits.keys() <= {"requests_per_minute", "concurrent"}:
        raise ValueError(shape)
    try:
        digest = bytes.fromhex(plain[1])
        numbers = {name: int(text) for name, text in limits.items()}
    except ValueError:
        raise ValueError(shape) from None
    if len(digest) != 32 or any(number < 1 for number in numbers.values()):
        raise ValueError(shape)
    key = ApiKey(
        plain[0],
        digest,
        requests_per_minute=numbers.get("requests_per_minute", 0),
        concurrent=numbers.get("concurrent", 0),
    )
    if len(plain) == 2:
        return key
    scopes = tuple(plain[2].split(","))
    if not _KEY_SCOPES.issuperset(scopes):
        raise ValueError(f"scopes are infer, metrics and admin, not {plain[2]}")
    return replace(key, scopes=scopes)
