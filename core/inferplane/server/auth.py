"""Who may call what: keys known by digest, compared all, with scopes; default deny."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from starlette.datastructures import Headers

from inferplane.api_keys import ApiKey
from inferplane.server.errors import ApiError
from inferplane.server.shares import Lease

__all__ = ["Caller", "KeyRing", "Scope", "cache_domain", "new_secret"]

Scope: TypeAlias = Literal["open", "infer", "metrics", "admin"]


@dataclass(frozen=True, slots=True)
class Caller:
    """Who made a request, as far as keys tell. Each key is a tenant."""

    name: str
    scopes: frozenset[str]
    key: ApiKey | None = field(default=None, compare=False)
    """None where no key is wanted."""
    lease: Lease | None = field(default=None, compare=False)
    """What this request holds of its key's share, while it is answered."""

    def charge(self, sequences: int) -> None:
        """Count what the request asks for. Raises ApiError `concurrency_limited`."""
        if self.lease is not None:
            self.lease.charge(sequences)


_ANYBODY = Caller("", frozenset(("infer", "metrics", "admin")))


class KeyRing:
    """The keys that open this server."""

    def __init__(
        self, keys: Sequence[ApiKey], on_failure: Callable[[], None] = lambda: None
    ) -> None:
        self.keys = tuple(keys)
        self.on_failure = on_failure

    def replace(self, keys: Sequence[ApiKey]) -> None:
        """Use these from now on; an empty list would open the server and is refused."""
        if self.keys and not keys:
            raise ValueError("a server with keys does not become one without")
        self.keys = tuple(keys)

    def caller(self, headers: Headers, scope: Scope, *, counted: bool = True) -> Caller:
        """Who calls. Raises ApiError: no key, a wrong one, or one without the scope.

        With no key configured, whatever key is sent is ignored. `counted` failures are told to
        `on_failure`.
        """
        if not self.keys:
            return _ANYBODY
        try:
            return self._known(headers, scope)
        except ApiError:
            if counted:
                self.on_failure()
            raise

    def _known(self, headers: Headers, scope: Scope) -> Caller:
        presented = _presented(headers)
        if presented is None:
            raise ApiError.of(
                "missing_api_key",
                "this server wants a key",
                hint="send the header Authorization: Bearer KEY, or x-api-key: KEY",
            )
        found = self._find(presented)
        if found is None:
            raise ApiError.of("invalid_api_key", "the key is not one of this server's")
        if scope != "open" and scope not in found.scopes:
            raise ApiError.of(
                "insufficient_scope",
                f"the key lacks the scope {scope!r}",
                hint=f"use a key whose scopes include {scope}",
            )
        return Caller(found.name, frozenset(found.scopes), found)

    def _find(self, presented: bytes) -> ApiKey | None:
        digest = hashlib.sha256(presented).digest()
        found = None
        for key in self.keys:  # every one, so that time tells nothing
            if hmac.compare_digest(digest, key.digest):
                found = key
        return found


def _presented(headers: Headers) -> bytes | None:
    """The key sent; None without one. Two different carriers or copies count as a wrong key."""
    sent: list[bytes] = []
    for value in headers.getlist("authorization"):
        scheme, _, key = value.strip().partition(" ")
        sent.append(key.strip().encode("latin-1") if scheme.lower() == "bearer" else b"")
    sent += [value.encode("latin-1") for value in headers.getlist("x-api-key")]
    if not any(sent):
        return None
    return sent[0] if len(set(sent)) == 1 else b""


def cache_domain(secret: bytes, caller: Caller, salt: str | None) -> bytes:
    """The domain within which prefixes are shared: one key's, divided by the caller's salt."""
    message = b"\0".join((caller.name.encode(), (salt or "").encode(), b"1" if salt else b"0"))
    return hmac.digest(secret, message, "sha256")


def new_secret() -> bytes:
    """A server's secret, new at each start."""
    return secrets.token_bytes(32)
