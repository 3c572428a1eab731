"""The whole kit for one device: `pytest --inferplane-device NAME`."""

from inferplane.testing.conformance.facts import FactsConformance
from inferplane.testing.conformance.hygiene import HygieneConformance


class TestHygiene(HygieneConformance):
    """L0."""


class TestFacts(FactsConformance):
    """L1."""
