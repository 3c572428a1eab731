"""What a start costs: packing on every processor, and no compiler of torch beside ours."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import inferplane_cpu
from inferplane_cpu.native.machine import Machine
from inferplane_cpu.native.packing import Packer

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 128,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 256,
    "hidden_act": "silu",
}
PROGRAM = """
import sys
from inferplane import LLM, SamplingParams
if __name__ == "__main__":
    llm = LLM(sys.argv[1], device="cpu", load_format="dummy", max_model_len=128)
    llm.generate([[5, 6, 7]], SamplingParams(temperature=0.0, max_tokens=2))
    print([name for name in ("torch._dynamo", "sympy") if name in sys.modules])
"""
QUANTISED = """
import sys
from inferplane import LLM, SamplingParams
if __name__ == "__main__":
    llm = LLM(
        sys.argv[1], device="cpu", load_format="dummy", quantization="int8", max_model_len=128
    )
    params = SamplingParams(temperature=0.0, max_tokens=3, ignore_eos=True)
    print(len(llm.generate([[5, 6, 7]], params)[0].token_ids))
"""


def test_a_start_loads_no_compiler_of_torch(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n")[-2] == "[]"


def test_quantised_layers_are_served_without_compiled_kernels(tmp_path: Path) -> None:
    """Op by op in torch, rather than by kernels that are not there."""
    package = Path(inferplane_cpu.__file__).parent
    shutil.copytree(
        package, tmp_path / package.name, ignore=shutil.ignore_patterns("*.so", "__pycache__")
    )
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))
    done = subprocess.run(
        [sys.executable, "-c", QUANTISED, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert "op by op" in done.stderr
    assert done.stdout.split("\n")[-2] == "3"


@pytest.mark.parametrize("rows", [1024, 1031])
def test_a_large_matrix_is_packed_as_its_parts_are(machine: Machine, rows: int) -> None:
    """Large ones are packed by several threads at once, parts of 64 rows by one."""
    torch.manual_seed(0)
    values = torch.randint(-8, 8, (rows, 1024), dtype=torch.int8)
    scales, offsets = torch.rand(rows, 32), torch.rand(rows, 32)
    packer = Packer(machine.library)

    def packed(span: slice) -> list[torch.Tensor]:
        part = values[span]
        return [
            packer.dense(part.float()).data,
            packer.dense(part.bfloat16()).data,
            packer.int8(part, torch.ones(len(part), 1)).data,
            packer.int8(part, scales[span], grouped=True).data,
            packer.int4(part, scales[span], offsets[span], -8).data,
        ]

    parts = zip(*(packed(slice(at, at + 64)) for at in range(0, rows, 64)), strict=True)
    for whole, pieces in zip(packed(slice(0, rows)), parts, strict=True):
        assert torch.equal(whole, torch.cat(pieces))
