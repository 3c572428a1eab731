"""Without the hardware the neuron plugin passes hygiene and facts; the rest waits."""

import pytest

from inferplane.testing.conformance.facts import FactsConformance
from inferplane.testing.conformance.hygiene import HygieneConformance


@pytest.fixture(scope="module")
def inferplane_device() -> str:
    return "neuron"


class TestHygiene(HygieneConformance): ...


class TestFacts(FactsConformance): ...
