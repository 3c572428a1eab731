"""An entry module of its own: the device "neuron-emulated", for those who name this module.

`INFERPLANE_PLUGINS=inferplane_neuron.emulation` offers it; an installed plugin does not, so that
nobody takes an emulation for hardware.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec

from inferplane.hookspecs import Register, hookimpl
from inferplane.interfaces import Executor, Probe, WorkerContext
from inferplane_neuron.platform import Neuron

__all__ = ["EmulatedNeuron"]

INTERFACE_VERSION = (1, 0)

_CORES = 8


@hookimpl
def register_platforms(register: Register) -> None:
    register("neuron-emulated", "inferplane_neuron.emulation:EmulatedNeuron")


class EmulatedNeuron(Neuron):
    """Everything but compiler and chip is the plugin's own."""

    def probe(self, env: Mapping[str, str]) -> Probe:
        """It needs torch alone. Score 0: `auto` never chooses it."""
        if find_spec("torch") is None:
            return Probe(False, "the emulation needs torch: pip install torch")
        return Probe(True, "emulated by torch.export", device_count=_CORES, arch="emulated")

    def create_executor(self, context: WorkerContext) -> Executor:
        from inferplane_neuron.emulated import ExportDriver  # torch must not reach the planner
        from inferplane_neuron.executor import NeuronExecutor  # likewise

        return NeuronExecutor(context, ExportDriver(context.config.tensor_parallel))
