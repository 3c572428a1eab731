"""Takes in the key file again when it changes, so that keys come and go without a restart."""

from __future__ import annotations

import logging

from inferplane.api_keys import read_key_file
from inferplane.config import ServeSettings
from inferplane.errors import ConfigError
from inferplane.server.auth import KeyRing

__all__ = ["KeyFile"]


class KeyFile:
    """Looks at the file's time; a file that cannot be read leaves the keys as they are."""

    def __init__(self, settings: ServeSettings, keys: KeyRing, logger: logging.Logger) -> None:
        self.path = settings.api_key_file
        self.keys = keys
        self.logger = logger
        self._seen = self._time()
        self._others = tuple(settings.api_keys)
        if self.path is not None:
            in_file = set(read_key_file(self.path))
            self._others = tuple(key for key in settings.api_keys if key not in in_file)

    def _time(self) -> int:
        try:
            return 0 if self.path is None else self.path.stat().st_mtime_ns
        except OSError:
            return 0

    def look(self) -> None:
        """Read the file if it changed."""
        changed = self._time()
        if self.path is None or changed in (0, self._seen):
            return
        self._seen = changed
        try:
            self.keys.replace((*self._others, *read_key_file(self.path)))
        except (ConfigError, ValueError) as error:
            self.logger.error("the keys stay as they were: %s", error)
        else:
            self.logger.info("%d keys from %s", len(self.keys.keys), self.path.name)
