"""Main of the engine process: `python -m inferplane.engine.process SOCKET_FD TICK_FD`.

Started by `engine/client.py` with its environment in place; the plan is the first message.
"""

from __future__ import annotations

import logging
import os
import socket
import sys

import msgspec

from inferplane.child_process import die_with_parent, ignore_terminal
from inferplane.config import current_environment
from inferplane.engine.messages import Failed
from inferplane.engine.service import EngineService
from inferplane.engine.watchdog import Tick
from inferplane.errors import InferplaneError
from inferplane.frames import FrameSocket
from inferplane.launch import LaunchPlan

__all__ = ["main"]

_log = logging.getLogger(__name__)
_UNEXPECTED = 1
_GOODBYE_S = 5.0


def main(arguments: list[str]) -> int:
    """The process exit code: 0 after a shutdown or the front end's end, else the error's."""
    die_with_parent()
    ignore_terminal()
    logging.basicConfig(format="%(levelname)s engine: %(message)s", stream=sys.stderr)
    front = FrameSocket(socket.socket(fileno=int(arguments[0])))
    tick = Tick(int(arguments[1]))
    service = None
    try:
        launch = msgspec.msgpack.decode(front.receive(), type=LaunchPlan)
        service = EngineService(front, tick, launch, current_environment(), os.urandom(32))
        service.start_up()
        service.serve()
        code = 0
    except EOFError:
        code = 0
    except InferplaneError as error:
        code = _say(front, str(error), error.exit_code)
    except Exception as error:
        _log.exception("the engine ends")
        code = _say(front, f"{type(error).__name__}: {error}", _UNEXPECTED)
    finally:
        if service is not None:
            service.close()
    front.drain(_GOODBYE_S)
    return code


def _say(front: FrameSocket, message: str, code: int) -> int:
    front.send(msgspec.msgpack.encode(Failed(message, code)))
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
