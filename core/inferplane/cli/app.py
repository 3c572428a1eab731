"""The table of verbs, and how an error becomes one line and an exit code."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError

from inferplane import __version__
from inferplane.cli.flags import alias_notes
from inferplane.errors import InferplaneError

__all__ = ["build_app", "run"]

USAGE = 2
INTERRUPTED = 130
"""What a shell reports for a command ended by Ctrl-C."""


def build_app() -> App:
    """All verbs; the module of each is imported when it is called."""
    app = App(
        name="inferplane",
        help="The backplane for LLM inference: one small core, any accelerator.",
        version=f"inferplane {__version__}",
        help_format="plaintext",
        print_error=False,
        exit_on_error=False,
        result_action="return_value",
    )
    verbs = {
        "serve": "Serve a model over HTTP (OpenAI API).",
        "chat": "Talk to a model in the terminal.",
        "generate": "Continue one text and print it.",
        "quantize": "Write a model with fewer bits a weight.",
        "inspect": "Show what a model is, how it is read and what would serve it.",
        "run-batch": "Answer a file of requests.",
        "doctor": "Check this machine and print a fix for each fault.",
        "matrix": "Show which device does what, and what that is known from.",
    }
    for verb, help_text in verbs.items():
        module = verb.replace("-", "_")
        app.command(f"inferplane.cli.{module}:{module}", name=verb, help=help_text)
    groups = {
        "plugins": (
            "Hardware plugins.",
            {"list": "All of them.", "info": "One of them.", "new": "Write one from a template."},
        ),
        "bench": (
            "Measure speed; results as JSON.",
            {"offline": "Throughput without HTTP.", "serve": "Latency and goodput of a server."},
        ),
        "config": ("Settings.", {"show": "Value and origin of each setting."}),
    }
    homes = {("bench", ""): "bench.verbs", ("plugins", "new"): "plugin_new"}
    for group, (help_text, members) in groups.items():
        child = App(name=group, help=help_text)
        app.command(child)
        for member, member_help in members.items():
            module = homes.get((group, member)) or homes.get((group, "")) or group
            module = f"inferplane.cli.{module}"
            child.command(f"{module}:{member}_", name=member, help=member_help)
    return app


def run(arguments: Sequence[str]) -> int:
    """Run one command. Deliberate errors are one line on stderr and their own exit code."""
    tokens = [_dashed(argument) for argument in arguments]
    if tokens[:1] == ["plugins"] and (len(tokens) == 1 or tokens[1].startswith("--")):
        tokens.insert(1, "list")  # the group's most asked question needs no second word
    for note in alias_notes(tokens):
        print(f"note: {note}", file=sys.stderr)
    try:
        code = build_app()(tokens)
    except CycloptsError as error:
        return _fail(" ".join(str(error).split()), USAGE)
    except InferplaneError as error:
        return _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return INTERRUPTED
    return code if isinstance(code, int) else 0


def _dashed(argument: str) -> str:
    """--max_model_len is --max-model-len."""
    match = re.fullmatch(r"(--[A-Za-z][\w-]*)(=.*)?", argument, re.DOTALL)
    return match[1].replace("_", "-") + (match[2] or "") if match else argument


def _fail(message: str, code: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return code
