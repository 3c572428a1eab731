"""From files to the parameters of a model; needs torch."""

from inferplane.loading.stream import WeightStream, iterate_weights
from inferplane.loading.weights import WeightTable, dummy_weights

__all__ = ["WeightStream", "WeightTable", "dummy_weights", "iterate_weights"]
