"""Fetches pictures by URL, from hosts that the operator names alone, and never from inside.

One parser reads the URL. The host is resolved once and that address is connected to, so that no
second answer of the name server counts; redirects are not followed.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import TypeAlias

import httpx2

from inferplane.server.errors import ApiError

__all__ = ["Address", "Fetcher", "is_public", "resolved"]

Address: TypeAlias = IPv4Address | IPv6Address
_TRANSLATED = ip_network("64:ff9b::/32")
"""NAT64: any IPv4 address may stand behind these."""


def is_public(address: Address) -> bool:
    """Whether an address belongs to the open internet, also where it hides another in itself."""
    if isinstance(address, IPv6Address):
        hidden = address.ipv4_mapped or address.sixtofour
        if hidden is not None:
            return is_public(hidden)
        if address.teredo is not None or address in _TRANSLATED:
            return False
    return address.is_global and not address.is_multicast and not address.is_reserved


async def resolved(host: str, port: int) -> list[Address]:
    """All addresses of a host. Raises OSError."""
    loop = asyncio.get_running_loop()
    rows = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [ip_address(str(row[4][0]).partition("%")[0]) for row in rows]


class Fetcher:
    """Fetches from `hosts`, each a name or NAME:PORT; () = from nowhere."""

    def __init__(
        self,
        hosts: Sequence[str],
        *,
        most_bytes: int,
        most_s: float,
        resolve: Callable[[str, int], Awaitable[Sequence[Address]]] = resolved,
        allows: Callable[[Address], bool] = is_public,
        trust: ssl.SSLContext | None = None,
    ) -> None:
        """`trust` None = what the system trusts."""
        self.hosts = frozenset(host.lower() for host in hosts)
        self.most_bytes = most_bytes
        self.most_s = most_s
        self._resolve = resolve
        self._allows = allows
        self._trust = trust

    async def fetch(self, url: str, path: str) -> bytes:
        """The body that `url` answers with; `path` is where the body of the request names it.

        Raises ApiError `media_fetch_disabled` or `media_invalid`.
        """
        parsed = self._checked(url, path)
        try:
            async with asyncio.timeout(self.most_s):
                return await self._fetched(parsed, path)
        except TimeoutError:
            raise _failed(path, f"takes longer than {self.most_s:g} s") from None
        except (httpx2.HTTPError, OSError):
            raise _failed(path, "cannot be fetched") from None

    def _checked(self, url: str, path: str) -> httpx2.URL:
        if not self.hosts:
            raise ApiError.of(
                "media_fetch_disabled",
                f"{path}: pictures are not fetched by this server",
                path,
                "send the picture as data:image/png;base64,..., or start the server with "
                "--allow-media-domains",
            )
        try:
            parsed = httpx2.URL(url)
        except httpx2.InvalidURL:
            raise _failed(path, "is no URL") from None
        if parsed.scheme != "https" or parsed.userinfo or not parsed.host:
            raise _failed(path, "is no https URL of a host alone")
        name = parsed.host.lower()
        if (f"{name}:{parsed.port}" if parsed.port else name) not in self.hosts:
            raise ApiError.of(
                "media_fetch_disabled",
                f"{path}: pictures are not fetched from that host",
                path,
                "hosts are named by --allow-media-domains",
            )
        return parsed

    async def _fetched(self, url: httpx2.URL, path: str) -> bytes:
        addresses = await self._resolve(url.host, url.port or 443)
        if not addresses or not all(map(self._allows, addresses)):
            raise _failed(path, "is not at a public address")
        shown = f"{url.host}:{url.port}" if url.port else url.host
        trust = self._trust if self._trust is not None else ssl.create_default_context()
        async with (
            httpx2.AsyncClient(
                verify=trust, trust_env=False, follow_redirects=False, timeout=self.most_s
            ) as http,
            http.stream(
                "GET",
                url.copy_with(host=str(addresses[0])),
                headers={"host": shown, "accept": "image/*", "accept-encoding": "identity"},
                extensions={"sni_hostname": url.host},
            ) as answer,
        ):
            if answer.status_code != httpx2.codes.OK:
                raise _failed(path, f"answers {answer.status_code}")
            return await self._body(answer, path)

    async def _body(self, answer: httpx2.Response, path: str) -> bytes:
        data = bytearray()
        async for part in answer.aiter_raw():
            data += part
            if len(data) > self.most_bytes:
                raise _failed(path, f"has more than {self.most_bytes} bytes")
        return bytes(data)


def _failed(path: str, why: str) -> ApiError:
    return ApiError.of("media_invalid", f"{path}: the picture's URL {why}", path)
