"""llm-comply's suites for the three dialects with a running server that decodes greedily.

Run by scripts/test-clients with llm-comply's environment, as `llm_comply_check.py URL [thinking]`.
Requests are made in strict mode, which is the letter of the API. The suites send neither
temperature nor a limit of tokens: the server's own default keeps so small a model from rambling.

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
NO_PICTURES = "the model sees no pictures; the 400 says so"
MISSES = {
    "chat-image-input": NO_PICTURES,
    "image-input": NO_PICTURES,
    "anth-image-input": NO_PICTURES,
}
"""Case -> why it does not pass. This list may only shrink."""
THINKING = {
    "chat-reasoning-summary": "o3-smollm2",
    "reasoning-summary": "o3-smollm2",
    "anth-thinking-display": "claude-sonnet-4-smollm2",
}
"""Case of a model that thinks -> the name by which the suite knows one."""


def results(url: str, suite: str, thinking: bool) -> list[TestResult]:
    """What came of the cases of a suite."""
    cases = [case for case in get_tests(suite) if (case.id in THINKING) is thinking]
    asked = Namespace(
        base_url=f"{url}/v1",
        api_key="none",
        model=THINKING[cases[0].id] if thinking else "smollm2-135m",
        header=f"x-inferplane-strict:{0 if thinking else 1}",
    )
    spec = SpecLoader(str(files("llm_comply") / "specs" / SUITES[suite]))
    runner = TestRunner(ComplianceConfig.from_args(asked), cases, spec)
    return list(runner.run_all().results)


def main(url: str, setup: str = "") -> int:
    """How many cases came out otherwise than they should."""
    wrong = 0
    for suite in SUITES:
        found = results(url, suite, setup == "thinking")
        passed = [one.id for one in found if one.status is TestStatus.PASSED]
        print(f"llm-comply {suite}: {len(passed)} of {len(found)} pass")
        for one in found:
            expected = (one.id in passed) is (one.id not in MISSES)
            wrong += not expected
            if one.id not in passed:
                why = MISSES.get(one.id) or "; ".join(one.errors)
                print(f"  {one.id}: {'listed' if expected else 'FAILED'}: {why}")
            elif not expected:
                print(f"  {one.id}: passes; take it off the list")
    return wrong


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
