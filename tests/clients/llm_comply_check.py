"""llm-comply's suites for the three dialects with a running server that decodes greedily.

Run by scripts/test-clients with llm-comply's environment, as `llm_comply_check.py URL [SETUP]`.
Requests are made in strict mode, which is the letter of the API. The suites send neither
temperature nor a limit of tokens: the server's own default keeps so small a model from rambling.

With `pictures` the cases with a picture, from a server whose model sees: a tiny one with random
weights, for the default model reads text alone.

With `thinking` the cases of models that think, from a server whose model thinks aloud and has the
names by which the suites know such models. They send fields of other dialects, so not strictly.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from importlib.resources import files

from llm_comply.config import ComplianceConfig
from llm_comply.result import TestResult, TestStatus
from llm_comply.runner import TestRunner
from llm_comply.schema import SpecLoader
from llm_comply.tests import get_tests

SUITES = {
    "openai-chat": "openai_chat.json",
    "open-responses": "openresponses.json",
    "anthropic": "anthropic.json",
}
"""Suite -> the description of the API that it checks answers against."""
PICTURES = frozenset(("chat-image-input", "image-input", "anth-image-input"))
"""Cases that only a model that sees can pass."""
SEEING = "tiny-smolvlm"
THINKING = {
    "chat-reasoning-summary": "o3-smollm2",
    "reasoning-summary": "o3-smollm2",
    "anth-thinking-display": "claude-sonnet-4-smollm2",
}
"""Case of a model that thinks -> the name by which the suite knows one."""


def setup_of(case: str) -> str:
    """Which server a case is for."""
    return "thinking" if case in THINKING else "pictures" if case in PICTURES else ""


def results(url: str, suite: str, setup: str) -> list[TestResult]:
    """What came of the cases of a suite that are for this server."""
    cases = [case for case in get_tests(suite) if setup_of(case.id) == setup]
    names = {"thinking": THINKING.get(cases[0].id, ""), "pictures": SEEING, "": "smollm2-135m"}
    asked = Namespace(
        base_url=f"{url}/v1",
        api_key="none",
        model=names[setup],
        header=f"x-inferplane-strict:{0 if setup == 'thinking' else 1}",
    )
    spec = SpecLoader(str(files("llm_comply") / "specs" / SUITES[suite]))
    runner = TestRunner(ComplianceConfig.from_args(asked), cases, spec)
    return list(runner.run_all().results)


def main(url: str, setup: str = "") -> int:
    """How many cases do not pass."""
    wrong = 0
    for suite in SUITES:
        found = results(url, suite, setup)
        failed = [one for one in found if one.status is not TestStatus.PASSED]
        wrong += len(failed)
        print(f"llm-comply {suite}: {len(found) - len(failed)} of {len(found)} pass")
        for one in failed:
            print(f"  {one.id}: FAILED: {'; '.join(one.errors)}")
    return wrong


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
