"""Deterministic simulation of the scheduler with a fake device that remembers what it was told.

inferplane-sim --seed 7 --steps 2500
"""

from inferplane.testing.simulation.knobs import Knobs, draw_knobs
from inferplane.testing.simulation.runner import Report, replay, simulate

__all__ = ["Knobs", "Report", "draw_knobs", "replay", "simulate"]
