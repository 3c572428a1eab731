"""The server's certificate: checked before the start, read again when its files change."""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass, field
from pathlib import Path

from inferplane.config import ServeSettings
from inferplane.errors import ConfigError

__all__ = ["Certificate"]


@dataclass(slots=True)
class Certificate:
    """A certificate chain and its key."""

    cert: Path
    key: Path
    logger: logging.Logger
    context: ssl.SSLContext = field(init=False)
    """What new connections are served with."""
    _seen: tuple[int, int] = field(init=False)

    def __post_init__(self) -> None:
        """Raises ConfigError naming the files that cannot be used."""
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            self._seen = self._stamp()
            self.context.load_cert_chain(self.cert, self.key)
        except OSError as error:  # SSLError is one
            raise ConfigError(
                f"certificate {self.cert} with key {self.key} cannot be used: "
                f"{error.strerror or error}; want PEM files that belong together"
            ) from None

    @classmethod
    def of(cls, settings: ServeSettings, logger: logging.Logger) -> Certificate | None:
        """The one of the settings. Raises ConfigError when half of it is given."""
        cert, key = settings.tls_cert, settings.tls_key
        if cert is None and key is None:
            return None
        if cert is None or key is None:
            missing = "--tls-key" if key is None else "--tls-cert"
            raise ConfigError(f"TLS takes a certificate and its key: {missing} is not given")
        return cls(cert, key, logger)

    def _stamp(self) -> tuple[int, int]:
        return self.cert.stat().st_mtime_ns, self.key.stat().st_mtime_ns

    def look(self) -> None:
        """Use changed files for connections to come; files that cannot be used are told and not
        used."""
        try:
            stamp = self._stamp()
            if stamp == self._seen:
                return
            self._seen = stamp
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self.cert, self.key)
            self.context.load_cert_chain(self.cert, self.key)
        except OSError as error:
            self.logger.error("the changed certificate %s cannot be used: %s", self.cert, error)
        else:
            self.logger.info("the certificate %s was read again", self.cert)
