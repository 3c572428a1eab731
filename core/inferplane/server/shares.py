"""What one key may take: requests a minute, requests at once, and a fair share of the room."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from inferplane.api_keys import ApiKey
from inferplane.server.errors import ApiError

__all__ = ["Lease", "Shares"]

_MINUTE_S = 60.0
_SMOOTHING = 0.2
"""Weight of the newest request in the mean duration."""


@dataclass(slots=True)
class _Account:
    """One key's use."""

    tokens: float
    """Requests it may still begin at once; refilled steadily."""
    filled_at: float
    requests: int = 0
    """Under way."""
    sequences: int = 0
    mean_s: float = 1.0
    """Duration of its requests, the latest weighing most."""


@dataclass(slots=True)
class Lease:
    """One request's hold on its key's share; released when its answer has ended."""

    shares: Shares
    account: _Account | None
    """None where no key is wanted."""
    began: float
    sequences: int = 1
    released: bool = False

    def charge(self, sequences: int) -> None:
        """Say how many sequences the request really is. Raises ApiError `concurrency_limited`.

        A request that is alone may be larger than the share: it would never fit otherwise.
        """
        account = self.account
        if account is None:
            return
        more = sequences - self.sequences
        if more > 0 and account.requests > 1:
            self.shares.check_room(account, more)
        account.sequences += more
        self.sequences = sequences

    def release(self) -> None:
        """Give it back. Idempotent."""
        if self.released:
            return
        self.released = True
        self.shares.under_way -= 1
        account = self.account
        if account is None:
            return
        account.requests -= 1
        account.sequences -= self.sequences
        lasted_s = self.shares.clock() - self.began
        account.mean_s += _SMOOTHING * (lasted_s - account.mean_s)


@dataclass(slots=True)
class Shares:
    """What is under way, in all and for each key. `running` and `waiting` are the sequences the
    engine holds at most: with as many requests the queue must be full, or nothing is loaded yet.

    With several keys, each has its part of the queue. Beyond that, a key that is alone gets what
    runs at once besides; beside others it gets what they leave of that, up to the level to which
    all can have the same (max-min fairness). Whoever comes then waits for the end of one sequence,
    and hardly ever for those of a greedy key that wait as well.
    """

    running: int
    waiting: int
    clock: Callable[[], float] = time.monotonic
    num_keys: int = 0
    queue_wait_s: Callable[[], float | None] = lambda: None
    """How long the queue takes to empty; None = unknown."""
    under_way: int = 0
    _accounts: dict[str, _Account] = field(default_factory=dict)

    def begin(self, key: ApiKey | None) -> Lease:
        """Count a request, of this key if there is one.

        Raises ApiError `queue_full`, `rate_limited` or `concurrency_limited`.
        """
        if self.under_way >= self.running + self.waiting:
            full = ApiError.of("queue_full", f"{self.under_way} requests are under way")
            full.retry_after_s = self.queue_wait_s()
            raise full
        account = None if key is None else self._admitted(key)
        self.under_way += 1
        return Lease(self, account, self.clock())

    def _admitted(self, key: ApiKey) -> _Account:
        account = self._account(key)
        if key.requests_per_minute:
            self._spend(key, account)
        if key.concurrent and account.requests >= key.concurrent:
            raise self.crowded(account, f"{key.concurrent} requests at once")
        self.check_room(account, 1)
        account.requests += 1
        account.sequences += 1
        return account

    def check_room(self, account: _Account, more: int) -> None:
        """Whether this key may have so many sequences more. Raises ApiError `concurrency_limited`.

        With k of them it stays below the level when all keys, cut to k each, fit what runs at once.
        """
        if self.num_keys < 2:
            return
        wanted, part = account.sequences + more, max(1, self.waiting // self.num_keys)
        if wanted <= part:
            return
        busy = (one for one in self._accounts.values() if one is not account and one.sequences)
        others = sum(min(one.sequences, wanted) for one in busy)
        room = self.running - others if others else self.running + part
        if wanted > room:
            raise self.crowded(account, f"{max(room, part)} sequences at once now")

    def crowded(self, account: _Account, limit: str) -> ApiError:
        """The refusal of a key that has enough under way; says when one of them should end."""
        error = ApiError.of("concurrency_limited", f"this key may have {limit}")
        error.retry_after_s = account.mean_s / max(1, account.requests)
        return error

    def _account(self, key: ApiKey) -> _Account:
        found = self._accounts.get(key.name)
        if found is None:
            self._forget_idle()
            found = _Account(float(key.requests_per_minute), self.clock())
            self._accounts[key.name] = found
        return found

    def _forget_idle(self) -> None:
        """Keep no more accounts than twice the keys: those of keys that are gone go first."""
        if len(self._accounts) >= 2 * max(1, self.num_keys):
            idle = [name for name, account in self._accounts.items() if not account.requests]
            for name in idle:
                del self._accounts[name]

    def _spend(self, key: ApiKey, account: _Account) -> None:
        """A token bucket of one minute's requests."""
        now, rate = self.clock(), key.requests_per_minute / _MINUTE_S
        filled = account.tokens + max(0.0, now - account.filled_at) * rate
        account.tokens = min(filled, float(key.requests_per_minute))
        account.filled_at = now
        if account.tokens < 1.0:
            error = ApiError.of(
                "rate_limited", f"this key may begin {key.requests_per_minute} requests a minute"
            )
            error.retry_after_s = (1.0 - account.tokens) / rate
            raise error
        account.tokens -= 1.0
