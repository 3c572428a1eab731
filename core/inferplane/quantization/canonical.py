"""Putting a CanonicalWeight together from what a format unpacked, with every part checked.

O output features, I input features, G groups of inputs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from inferplane.errors import ModelError
from inferplane.interfaces import CanonicalWeight, QuantScheme

__all__ = [
    "check_weight",
    "expand_scales",
    "join_weights",
    "num_groups",
    "order_of_groups",
    "slice_weight",
    "take",
]

_RANGES = {"int4": (-8, 7), "int8": (-128, 127)}


def take(
    tensors: Mapping[str, Tensor], name: str, dtypes: tuple[torch.dtype, ...], dims: int
) -> Tensor:
    """The tensor of that name. Raises ModelError when it is missing or of another kind."""
    tensor = tensors.get(name)
    if tensor is None:
        raise ModelError(f"tensor {name!r} is missing, the layer's quantisation needs it")
    if tensor.dtype not in dtypes:
        known = ", ".join(str(dtype) for dtype in dtypes)
        raise ModelError(f"tensor {name!r} has dtype {tensor.dtype}, needs {known}")
    if tensor.ndim != dims:
        raise ModelError(f"tensor {name!r} has shape {list(tensor.shape)}, needs {dims} dimensions")
    return tensor


def check_weight(
    layer: str, weight: CanonicalWeight, scheme: QuantScheme, out_features: int, in_features: int
) -> None:
    """Raises ModelError naming the layer when parts contradict each other or hold no numbers."""
    if tuple(weight.values.shape) != (out_features, in_features):
        raise ModelError(
            f"layer {layer!r}: its weights unpack to {list(weight.values.shape)}, the "
            f"configuration says [{out_features}, {in_features}]"
        )
    groups = num_groups(scheme, in_features)
    parts = {"scales": weight.scales, "offsets": weight.offsets}
    for name, part in parts.items():
        if part is None:
            continue
        if tuple(part.shape) != (out_features, groups):
            raise ModelError(
                f"layer {layer!r}: its {name} are {list(part.shape)}, {groups} groups need "
                f"[{out_features}, {groups}]"
            )
        if not bool(torch.isfinite(part).all()):
            raise ModelError(f"layer {layer!r}: its {name} are not finite (NaN or infinity)")
    if (weight.offsets is None) == scheme.offset:
        raise ModelError(f"layer {layer!r}: zero points do not agree with its configuration")
    if (weight.order is None) == scheme.reordered:
        raise ModelError(f"layer {layer!r}: the order of inputs contradicts its configuration")
    if weight.input_scale is not None and not bool((weight.input_scale > 0).all()):
        raise ModelError(f"layer {layer!r}: its input scale is not a positive number")
    _check_codes(layer, weight.values, scheme)


def num_groups(scheme: QuantScheme, in_features: int) -> int:
    """G of a layer; its last group may be shorter than the others."""
    return 1 if scheme.group <= 0 else -(-in_features // scheme.group)


def _check_codes(layer: str, values: Tensor, scheme: QuantScheme) -> None:
    if scheme.weight.startswith("fp8"):
        # 0x7F and 0xFF are the only codes of e4m3fn that are no numbers; e5m2 has more
        last = 0x7E if scheme.weight == "fp8_e4m3" else 0x7B
        codes = values.view(torch.uint8) & 0x7F
        if bool((codes > last).any()):
            raise ModelError(f"layer {layer!r}: its weights hold fp8 codes that are no numbers")
        return
    low, high = _RANGES[scheme.weight]
    found_low, found_high = torch.aminmax(values)
    if int(found_low) < low or int(found_high) > high:
        raise ModelError(
            f"layer {layer!r}: codes {int(found_low)}..{int(found_high)} exceed {scheme.weight}"
        )


def order_of_groups(name: str, group_of_input: Tensor, group: int) -> Tensor:
    """order i32[I] that sorts inputs by group: column j of the values is input order[j].

    Raises ModelError when a group has not `group` inputs, the last one those that are left.
    """
    in_features = group_of_input.shape[0]
    groups = -(-in_features // group)
    low, high = torch.aminmax(group_of_input)
    if int(low) < 0 or int(high) >= groups:
        raise ModelError(f"tensor {name!r} names group {int(high)}, the layer has {groups}")
    sizes = torch.bincount(group_of_input.long(), minlength=groups)
    sizes[-1] += groups * group - in_features
    if bool((sizes != group).any()):
        raise ModelError(f"tensor {name!r} puts unequal numbers of inputs into its groups")
    return torch.argsort(group_of_input.long(), stable=True).to(torch.int32)


def join_weights(parts: list[CanonicalWeight]) -> CanonicalWeight:
    """Layers with the same input and scheme as one, outputs one after the other.

    A static input scale becomes the largest of them, so that nothing is clipped that was not.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    offsets = [part.offsets for part in parts if part.offsets is not None]
    scales = [part.input_scale for part in parts if part.input_scale is not None]
    return replace(
        first,
        values=torch.cat([_bytes(part.values) for part in parts]).view(first.values.dtype),
        scales=torch.cat([part.scales for part in parts]),
        offsets=torch.cat(offsets) if offsets else None,
        input_scale=torch.stack(scales).amax(0) if scales else None,
    )


def slice_weight(
    weight: CanonicalWeight, rows: slice, columns: slice, scheme: QuantScheme
) -> CanonicalWeight:
    """The part of a weight that one rank computes; `columns` must fall on whole groups."""
    groups = slice(None)
    if scheme.group > 0 and columns != slice(None):
        groups = slice(columns.start // scheme.group, columns.stop // scheme.group)
    return replace(
        weight,
        values=weight.values[rows, columns],
        scales=weight.scales[rows, groups],
        offsets=None if weight.offsets is None else weight.offsets[rows, groups],
    )


def _bytes(values: Tensor) -> Tensor:
    """torch concatenates bytes on every device, fp8 numbers only on some."""
    return values.view(torch.uint8) if values.dtype.is_floating_point else values


def expand_scales(
    name: str, tensors: Mapping[str, Tensor], shape: tuple[int, ...], block_rows: int = 0
) -> Tensor:
    """Scales f32[O,G] from one for all, one for each output, or one for each group or block.

    `block_rows` > 0: the tensor is [O/block_rows, G], each row standing for that many outputs.
    Raises ModelError.
    """
    found = tensors.get(name)
    if found is None or not found.is_floating_point():
        raise ModelError(f"tensor {name!r} is missing or holds no floating-point numbers")
    out_features = shape[0]
    wide = found.float()
    if wide.numel() == 1:
        return wide.reshape(1, 1).repeat(out_features, 1)
    if block_rows and wide.ndim == 2 and wide.shape[0] == -(-out_features // block_rows):
        return wide.repeat_interleave(block_rows, 0)[:out_features].contiguous()
    if block_rows or wide.numel() % out_features or wide.shape[0] != out_features:
        raise ModelError(
            f"tensor {name!r} has shape {list(found.shape)}, which fits no {out_features} outputs"
        )
    return wide.reshape(out_features, -1).contiguous()
