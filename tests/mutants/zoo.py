"""Correct plugins, and each of them broken in one place. A mutant is a change of text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from inferplane.new_plugin import Variant, line_count, write_plugin

PARTS = Path(__file__).parent / "parts"


@dataclass(frozen=True)
class Change:
    """Replace text that occurs exactly once in a file of the package."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Mutant:
    """What is broken, and the level at which the kit must say so."""

    name: str
    level: int
    variant: Variant
    changes: tuple[Change, ...]


def narrow(name: str, level: int, file: str, old: str, new: str) -> Mutant:
    return Mutant(name, level, "narrow", (Change(file, old, new),))


def wide(name: str, level: int, file: str, old: str, new: str) -> Mutant:
    return Mutant(name, level, "wide", (Change(file, old, new),))


MUTANTS = (
    wide(
        "imports_torch",
        0,
        "platform.py",
        "import find_spec\n",
        "import find_spec\n\nimport torch\n",
    ),
    narrow(
        "sets_the_environment",
        0,
        "plugin.py",
        "INTERFACE_VERSION = (1, 0)",
        'INTERFACE_VERSION = (1, 0)\n__import__("os").environ["ACME_MODE"] = "fast"',
    ),
    narrow(
        "mutates_the_configuration",
        1,
        "platform.py",
        "        if model.architecture not in",
        '        config.kernels["silu_mul/1"] = "acme"\n        if model.architecture not in',
    ),
    narrow(
        "changes_its_mind_each_time",
        1,
        "platform.py",
        "        return ()\n",
        '        return (api.Change("max_num_seqs", config.max_num_seqs // 2, "smaller"),)\n',
    ),
    wide(
        "computes_one_shape_wrongly",
        2,
        "kernels.py",
        "    return (F.silu(gate) * up).to(x.dtype)",
        "    return (F.silu(gate) * up + 0.01 * (len(x) == 13)).to(x.dtype)",
    ),
    wide(
        "adds_eps_outside_the_root",
        2,
        "kernels.py",
        "    return F.rms_norm(x.float(), (x.shape[-1],), w, eps).to(x.dtype)",
        "    return (x / (x.float().pow(2).mean(-1, keepdim=True).sqrt() + eps) * w).to(x.dtype)",
    ),
    wide(
        "drops_the_last_row",
        2,
        "kernels.py",
        "    return (F.silu(gate) * up).to(x.dtype)",
        "    out = (F.silu(gate) * up).to(x.dtype)\n"
        "    out[len(out) // 8 * 8 :] *= len(out) % 8 == 0 or len(out) < 8\n    return out",
    ),
    wide(
        "takes_fp8_for_another_flavour",
        2,
        "quantization.py",
        "weight.values.float()",
        "weight.values.view(torch.float8_e4m3fnuz).float()",
    ),
    wide(
        "mixes_up_experts",
        2,
        "quantization.py",
        "rows = x.repeat_interleave(ids.shape[1], 0)",
        "rows = x.repeat(ids.shape[1], 1)",
    ),
    wide(
        "scales_all_experts_alike",
        2,
        "quantization.py",
        "weight.values.float() * weight.scales",
        "weight.values.float() * weight.scales[: 1 if weight.scales.dim() == 3 else None]",
    ),
    wide(
        "pads_into_a_live_block",
        3,
        "attention.py",
        "batch = pad(batch, bucket, self._spec.block_size)\n",
        "n, batch = len(batch.token_ids), pad(batch, bucket, self._spec.block_size)\n"
        "            batch.slots[self._spec.group][n:] += self._spec.block_size\n",
    ),
    wide("sees_one_token_too_many", 3, "attention.py", "(distance < (", "(distance <= ("),
    wide(
        "reports_half_of_a_block",
        3,
        "store.py",
        "        return super().bytes_per_block(layer, block_size)",
        "        return super().bytes_per_block(layer, block_size) // 2",
    ),
    narrow(
        "keeps_a_stale_block_after_a_copy",
        3,
        "executor.py",
        "self._kv[:, :, batch.copied[:, 1]] = self._kv[:, :, batch.copied[:, 0]]",
        "self._kv[:, :1, batch.copied[:, 1]] = self._kv[:, :1, batch.copied[:, 0]]",
    ),
    wide(
        "recompiles_on_odd_lengths",
        4,
        "platform.py",
        "        return super().select(shape)\n",
        "        fit = super().select(shape)\n"
        "        if fit is None or shape.num_tokens % 2 == 0:\n            return fit\n"
        "        seqs = min(fit.num_seqs, shape.num_tokens)\n"
        '        return api.Bucket("mixed", shape.num_tokens, seqs)\n',
    ),
    wide(
        "falls_back_to_the_host_silently",
        4,
        "kernels.py",
        "    gate, up = x.float().chunk(2, dim=-1)\n",
        "    gate, up = x.float().chunk(2, dim=-1)\n"
        "    up = up * (1.0 if up.sum().item() else 1.0)\n",
    ),
    narrow(
        "ignores_the_seed",
        5,
        "executor.py",
        "drawn = draw(logits, batch.sampling)",
        "from dataclasses import replace\n\n"
        "        same = replace(batch.sampling, seed=np.zeros_like(batch.sampling.seed))\n"
        "        drawn = draw(logits, same)",
    ),
    narrow(
        "drops_min_p",
        5,
        "executor.py",
        "drawn = draw(logits, batch.sampling)",
        "from dataclasses import replace\n\n"
        "        less = replace(batch.sampling, min_p=np.zeros_like(batch.sampling.min_p))\n"
        "        drawn = draw(logits, less)",
    ),
    narrow(
        "reads_the_previous_row",
        6,
        "executor.py",
        "self._drawn[batch.token_source[late]]",
        "self._drawn[batch.token_source[late] - 1]",
    ),
    narrow(
        "leaks_a_lane_when_a_prompt_is_aborted",
        7,
        "executor.py",
        "        if batch.zeroed is not None:\n",
        "        self._keep_lanes(batch)\n        if batch.zeroed is not None:\n",
    ),
)

LANES = '''
    def _keep_lanes(self, batch: api.StepBatch) -> None:
        """A device with a place for each lane, which it gives back only after an answer began."""
        from inferplane.errors import DeviceError

        taken, begun = self.__dict__.setdefault("lanes", ([], set()))
        for lane in () if batch.released is None else batch.released.tolist():
            if lane in begun and lane in taken:
                taken.remove(lane)
            begun.discard(lane)
        new = batch.positions[batch.query_start[:-1]] == 0
        taken += batch.lanes[new].tolist()
        begun |= set(batch.lanes[batch.sampled].tolist())
        if len(taken) > self._config.max_num_seqs + 40:
            raise DeviceError("no place left for another lane")
'''


def write_zoo_plugin(name: str, variant: Variant, folder: Path) -> Path:
    """A correct plugin: the template, and for a wide one every further part there is."""
    target = write_plugin(name, folder, variant)
    assert line_count(target) <= 300
    package = target / f"inferplane_{name}"
    if variant == "wide":
        for part in PARTS.glob("*.py"):
            (package / part.name).write_text(part.read_text())
        methods = (PARTS / "platform_methods.txt").read_text()
        _extend(package / "platform.py", methods.replace("inferplane_acme", package.name))
        changed = (
            Change("platform.py", "import ConfigError\n", f"import ConfigError\n{TOKEN_GRID}"),
            Change(
                "platform.py",
                '("float32", "bfloat16"),\n',
                '("float32",),\n            fp8="e4m3fn",\n',
            ),
            Change(
                "attention.py", 'layouts = ("nhd",)', 'layouts = ("nhd",)\n    graph = "always"'
            ),
        )
        for change in changed:
            _apply(package, change)
        _extend(package / "plugin.py", QUANT_HOOK.format(package=package.name, name=name))
    return target


TOKEN_GRID = "from inferplane.shapes import TokenGrid\n"
QUANT_HOOK = """

@hookimpl
def register_quantization_kernels(register: Register) -> None:
    register("{name}_fp8", "{package}.quantization:Fp8Linear", on=("{name}",))
"""


def write_mutant(mutant: Mutant, folder: Path) -> tuple[Path, str]:
    """(folder of the distribution, device name) of a plugin broken in one place."""
    target = write_zoo_plugin(mutant.name, mutant.variant, folder)
    package = target / f"inferplane_{mutant.name}"
    for change in mutant.changes:
        _apply(package, change)
        if "_keep_lanes" in change.new:
            _extend(package / change.file, LANES)
    return target, mutant.name


def _apply(package: Path, change: Change) -> None:
    path = package / change.file
    text = path.read_text()
    assert text.count(change.old) == 1, (
        f"{change.file}: {change.old!r} is there {text.count(change.old)} times"
    )
    path.write_text(text.replace(change.old, change.new))


def _extend(path: Path, text: str) -> None:
    path.write_text(path.read_text() + text)
