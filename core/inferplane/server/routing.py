"""Routes with a declared scope; the decision to let a request in is taken on the matched route.

Nothing here reads the path to decide anything: Starlette matches, then the route asks for its own
scope. A path that matches nothing wants the scope `infer` before it says so.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Route, Router
from starlette.types import Receive, Send
from starlette.types import Scope as AsgiScope

from inferplane.server.auth import KeyRing, Scope
from inferplane.server.errors import ApiError, Dialect
from inferplane.server.shares import Shares

__all__ = ["Endpoint", "GatedRouter", "ScopedRoute"]

Endpoint = Callable[[Request], Awaitable[Response]]


class ScopedRoute(Route):
    """A route that says who may use it and how its errors look. GET brings HEAD with it."""

    def __init__(
        self,
        path: str,
        endpoint: Endpoint,
        *,
        methods: Sequence[str],
        scope: Scope,
        dialect: Dialect = "openai",
    ) -> None:
        super().__init__(path, endpoint, methods=list(methods), include_in_schema=False)
        self.scope: Scope = scope
        self.label = path.replace(":path", "")
        """How metrics and logs call it."""
        self.dialect: Dialect = dialect

    async def handle(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Answers the endpoint's response; methods and scope were checked by the router."""
        await self.app(scope, receive, send)


class GatedRouter(Router):
    """Matches, asks the key ring, and only then runs anything."""

    def __init__(
        self, routes: Sequence[ScopedRoute], keys: KeyRing, shares: Shares | None = None
    ) -> None:
        """Without `shares` no key is limited."""
        for route in routes:
            self._check(route)
        super().__init__(list(routes), redirect_slashes=False)
        self.keys = keys
        self.shares = shares

    def add(self, routes: Sequence[ScopedRoute]) -> None:
        """Take in the routes of a plugin that was loaded later."""
        for route in routes:
            self._check(route)
        self.routes.extend(routes)

    @staticmethod
    def _check(route: BaseRoute) -> None:
        if not isinstance(route, ScopedRoute):
            raise TypeError(f"route {getattr(route, 'path', route)!r} declares no scope")

    async def app(self, scope: AsgiScope, receive: Receive, send: Send) -> None:
        """Entry for each request that is neither lifespan nor preflight."""
        if scope["type"] != "http":
            raise ApiError.of("route_not_found", "there is no such route")
        best, child, allowed = self._match(scope)
        state = scope["state"]
        if best is not None:
            state["route"], state["dialect"] = best.label, best.dialect
            if best.scope != "open":
                state["caller"] = self.keys.caller(Headers(scope=scope), best.scope)
        else:
            state["caller"] = self.keys.caller(Headers(scope=scope), "infer")
            raise ApiError.of(
                "route_not_found", "there is no such route", hint="GET /v1/models lists what is"
            )
        if allowed:
            raise ApiError(
                ApiError.of("method_not_allowed", f"this route takes {allowed}").problems,
                {"allow": allowed},
            )
        scope.update(child)
        await self._within_share(best, scope, receive, send)

    async def _within_share(
        self, route: ScopedRoute, scope: AsgiScope, receive: Receive, send: Send
    ) -> None:
        """What costs the engine something is counted until its answer has ended.

        A request too many is refused here, before anything of it is read.
        """
        caller = scope["state"].get("caller")
        counts = route.scope == "infer" and scope["method"] == "POST"
        if self.shares is None or caller is None or not counts:
            await route.handle(scope, receive, send)
            return
        self.shares.num_keys = len(self.keys.keys)
        lease = self.shares.begin(caller.key)
        scope["state"]["caller"] = replace(caller, lease=lease)
        try:
            await route.handle(scope, receive, send)
        finally:
            lease.release()

    def _match(self, scope: AsgiScope) -> tuple[ScopedRoute | None, AsgiScope, str]:
        """The route, what matching adds to the scope, and the methods it takes if not this one."""
        partial: list[ScopedRoute] = []
        for route in self.routes:
            assert isinstance(route, ScopedRoute)
            match, child = route.matches(scope)
            if match is Match.FULL:
                return route, child, ""
            if match is Match.PARTIAL:
                partial.append(route)
        if not partial:
            return None, {}, ""
        methods = sorted({method for route in partial for method in route.methods or ()})
        return partial[0], {}, ", ".join(methods)
