"""Entry of the command `inferplane` and of `python -m inferplane`."""

from __future__ import annotations

import sys

from inferplane import __version__

__all__ = ["main"]


def main() -> None:
    """Run the command line and leave with its exit code."""
    arguments = sys.argv[1:]
    if arguments in (["--version"], ["-V"]):  # answered before anything is imported
        print(f"inferplane {__version__}")
        return
    from inferplane.cli.app import run  # costs 100 ms, which --version need not pay

    sys.exit(run(arguments))


if __name__ == "__main__":
    main()
