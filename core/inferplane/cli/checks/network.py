"""Checks of where the server listens, who may call it, and what proxies do to it."""

from __future__ import annotations

import socket
from ipaddress import ip_address

from inferplane.cli.checks.finding import Finding, Machine, fail, ok, skip, warn

__all__ = ["key_beyond_loopback", "port_free", "proxy_spares_loopback"]

_PROXIES = ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY")


def port_free(machine: Machine) -> Finding:
    """The port can be taken."""
    with socket.socket(socket.AF_INET6 if ":" in machine.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((machine.host, machine.port))
        except OSError as error:
            return fail(
                f"{machine.host} port {machine.port}: {error.strerror}",
                f"inferplane serve --port {machine.port + 1}, or --port 0 for any free one",
            )
    return ok(f"{machine.host} port {machine.port} is free")


def _is_loopback(host: str) -> bool:
    """Whether only this machine can reach it."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def key_beyond_loopback(machine: Machine) -> Finding:
    """A server that others can reach asks for a key."""
    if _is_loopback(machine.host):
        return ok(f"{machine.host} is reached from this machine only")
    if not machine.has_key:
        return fail(
            f"{machine.host} is reached from other machines and no key is set: the server will "
            "refuse to start",
            "export INFERPLANE_API_KEY=…, or --api-key-file FILE",
        )
    return ok(f"{machine.host} with a key")


def proxy_spares_loopback(machine: Machine) -> Finding:
    """Clients on this machine do not send their requests to a proxy."""
    proxy = next((name for name in _PROXIES if machine.environ.get(name)), None)
    if proxy is None:
        return skip("no proxy is set")
    spared = machine.environ.get("no_proxy", machine.environ.get("NO_PROXY", ""))
    if any(part.strip() in ("127.0.0.1", "localhost", "*") for part in spared.split(",")):
        return ok(f"{proxy} spares this machine")
    return warn(
        f"{proxy} is set and no_proxy does not name this machine: clients here would ask the proxy",
        "export no_proxy=127.0.0.1,localhost",
    )
