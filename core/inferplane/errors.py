"""Every error the engine raises on purpose.

InferplaneError
├── ConfigError          this configuration cannot be served here; the message names what can
│   ├── RegistrationError    a plugin offered something the registry refuses
│   ├── UnknownNameError     a name nobody registered
│   ├── DeviceUnavailableError   the requested device cannot be used; the message is its own reason
│   ├── AddressError         the address to listen on is taken, or not ours
│   ├── CapacityError        it does not fit the memory there is
│   ├── DiskSpaceError       the disk has no room for it
│   └── ModelError           the model's files are missing, damaged or inconsistent
├── DeviceError          the device or its runtime failed: the worker must be replaced
├── UnsupportedError     an optional part that this plugin does not offer
├── RequestError         one request cannot be served; carries an HTTP code and the field
└── EngineError          the engine process is loading, draining, restarting or dead
"""

from __future__ import annotations

__all__ = [
    "AddressError",
    "CapacityError",
    "ConfigError",
    "DeviceError",
    "DeviceUnavailableError",
    "DiskSpaceError",
    "EngineError",
    "InferplaneError",
    "ModelError",
    "RegistrationError",
    "RequestError",
    "UnknownNameError",
    "UnsupportedError",
]


class InferplaneError(Exception):
    """Base of every deliberate error."""

    exit_code = 1


class ConfigError(InferplaneError):
    """This configuration cannot be served here; the message names what can."""

    exit_code = 2


class RegistrationError(ConfigError):
    """A plugin offered something the registry refuses."""


class UnknownNameError(ConfigError):
    """A name nobody registered; the message lists the known ones."""


class DeviceUnavailableError(ConfigError):
    """The requested device cannot be used; the message is the plugin's own reason."""

    exit_code = 3


class AddressError(ConfigError):
    """The address to listen on is taken, or not this machine's."""

    exit_code = 5


class CapacityError(ConfigError):
    """The model or its KV cache does not fit the memory there is."""

    exit_code = 4


class DiskSpaceError(ConfigError):
    """The disk has no room for what must be fetched; nothing was written."""

    exit_code = 6


class ModelError(ConfigError):
    """The model's files are missing, damaged or inconsistent; the message names file and tensor."""


class DeviceError(InferplaneError):
    """The device or its runtime failed: the worker must be replaced."""

    exit_code = 7


class UnsupportedError(InferplaneError):
    """An optional part that this plugin does not offer."""


class RequestError(InferplaneError):
    """One request cannot be served.

    `code` is a wire code of `docs/http-api.md` (`capacity_exceeded`, `queue_full`, …), `param` the
    path of the field at fault or None.
    """

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.param = param


class EngineError(InferplaneError):
    """The engine cannot take work now.

    `code` is `model_loading`, `draining`, `engine_restarting` or `engine_dead`.
    """

    exit_code = 7

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
