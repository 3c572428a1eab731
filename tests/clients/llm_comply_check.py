"""llm-comply's suites for the three dialects with a running server that decodes greedily.

Run by scripts/test-clients with llm-comply's environment, as `llm_comply_check.py URL`. Requests
are made in strict mode, which is the letter of the API. The suites send neither temperature nor a
limit of tokens: the server's own default keeps so small a model from rambling.
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
BY_NAME = "left out by the suite, which goes by the names of reasoning models"
MISSES = {
    "chat-image-input": NO_PICTURES,
    "image-input": NO_PICTURES,
    "anth-image-input": NO_PICTURES,
    "chat-reasoning-summary": BY_NAME,
    "reasoning-summary": BY_NAME,
    "anth-thinking-display": BY_NAME,
}
"""Case -> why it does not pass. This list may only shrink."""


def results(url: str, suite: str) -> list[TestResult]:
    """What came of every case of a suite."""
    asked = Namespace(
        base_url=f"{url}/v1",
        api_key="none",
        model="smollm2-135m",
        header="x-inferplane-strict:1",
    )
    spec = SpecLoader(str(files("llm_comply") / "specs" / SUITES[suite]))
    runner = TestRunner(ComplianceConfig.from_args(asked), get_tests(suite), spec)
    return list(runner.run_all().results)


def main(url: str) -> int:
    """How many cases came out otherwise than they should."""
    wrong = 0
    for suite in SUITES:
        found = results(url, suite)
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
    sys.exit(main(sys.argv[1]))
