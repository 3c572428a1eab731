"""Without the hardware the xpu plugin passes hygiene and facts; the rest waits."""

import pytest

from inferplane.testing.conformance.facts import FactsConformance
from inferplane.testing.conformance.hygiene import HygieneConformance


@pytest.fixture(scope="module")
def inferplane_device() -> str:
    return "xpu"


class TestHygiene(HygieneConformance): ...


class TestFacts(FactsConformance): ...
