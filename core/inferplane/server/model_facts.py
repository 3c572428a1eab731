"""What a model's files say of its weights: parameters, bytes and number formats."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from math import prod

from inferplane.checkpoint import Checkpoint, TensorInfo
from inferplane.model_config import ModelConfig

__all__ = ["DtypeFacts", "WeightFacts", "weight_facts"]

_BESIDE = (
    "scales",
    "qzeros",
    "g_idx",
    "weight_scale",
    "weight_scale_inv",
    "weight_zero_point",
    "weight_g_idx",
    "weight_shape",
    "weight_global_scale",
    "input_scale",
    "input_global_scale",
    "absmax",
    "quant_map",
    "nested_absmax",
    "nested_quant_map",
    "quant_state",
)
"""Last names of tensors that describe others."""
_PACKED_BITS = {"I32": 32, "U8": 8}


@dataclass(frozen=True, slots=True)
class DtypeFacts:
    """Tensors stored in one number format."""

    tensors: int
    bytes: int
    parameters: int


@dataclass(frozen=True, slots=True)
class WeightFacts:
    """All tensors of a model."""

    parameters: int
    bytes: int
    dtypes: Mapping[str, DtypeFacts]
    """Name as in the file -> facts, the most bytes first."""
    quantization: str
    """The method and its bits, or the format of most bytes: gptq-4bit, Q4_1, BF16."""
    digest: str
    """SHA-256 of names, formats, shapes and sizes: tells models apart, not their bytes."""

    @property
    def spoken_parameters(self) -> str:
        """The count as people write it: 134.5M, 7.6B."""
        for unit, size in (("B", 1e9), ("M", 1e6), ("K", 1e3)):
            if self.parameters >= size:
                return f"{self.parameters / size:.1f}{unit}"
        return str(self.parameters)


def weight_facts(checkpoint: Checkpoint, config: ModelConfig) -> WeightFacts:
    """Facts of a checkpoint's tensors; only headers are read."""
    bits = _bits(config.quantization)
    tensors, sizes, counts = Counter[str](), Counter[str](), Counter[str]()
    digest = sha256(config.architecture.encode())
    for tensor in checkpoint.tensors.values():
        tensors[tensor.dtype] += 1
        sizes[tensor.dtype] += tensor.num_bytes
        counts[tensor.dtype] += _parameters(tensor, bits)
        told = f"{tensor.name} {tensor.dtype} {tensor.shape} {tensor.num_bytes}\n"
        digest.update(told.encode())
    dtypes = {
        name: DtypeFacts(tensors[name], size, counts[name]) for name, size in sizes.most_common()
    }
    method = config.quantization.get("quant_method")
    named = f"{method}-{bits}bit" if method and bits else str(method or "")
    if not named or checkpoint.format == "gguf":
        named = next(iter(dtypes), "none")
    return WeightFacts(sum(counts.values()), sum(sizes.values()), dtypes, named, digest.hexdigest())


def _bits(quantization: Mapping[str, object]) -> int:
    """Bits of a weight, where the method packs several into one number; 0 = it does not say."""
    for key in ("bits", "w_bit"):
        if isinstance(found := quantization.get(key), int):
            return found
    if quantization.get("load_in_4bit"):
        return 4
    if quantization.get("load_in_8bit"):
        return 8
    groups = quantization.get("config_groups")
    for group in groups.values() if isinstance(groups, dict) else ():
        weights = group.get("weights") if isinstance(group, dict) else None
        if isinstance(weights, dict) and isinstance(found := weights.get("num_bits"), int):
            return found
    return 0


def _parameters(tensor: TensorInfo, bits: int) -> int:
    """Weights in a tensor, however many one stored number holds."""
    last = tensor.name.rpartition(".")[2]
    if last in _BESIDE or last.startswith("bitsandbytes"):
        return 0
    packed = last in ("qweight", "weight_packed") or (tensor.dtype == "U8" and bits == 4)
    width = _PACKED_BITS.get(tensor.dtype, 0) if packed and bits else 0
    return prod(tensor.shape) * (width // bits if width > bits else 1)
