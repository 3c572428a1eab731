"""FlashInfer is chosen once it is installed and compiled, and says what is missing until then."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from inferplane.interfaces import AttentionSpec, Bucket, StepBatch

pytest.importorskip("triton", reason="triton is not installed")

from inferplane_cuda.attention.flashinfer import FlashInferAttention
from inferplane_cuda.attention.flashinfer_modules import Modules
from inferplane_triton.gpu.graphs import GpuGraphs
from inferplane_triton.gpu.platform import gpu_capabilities

CAPS = gpu_capabilities(("bfloat16",), "none")
SPEC = AttentionSpec(32, 8, 128, 128, "bfloat16", "auto", 128**-0.5, 16)
here_without = pytest.mark.skipif(find_spec("flashinfer") is not None, reason="it is installed")


def install(folder: Path, version: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A distribution of that name and version, importable and empty."""
    told = folder / f"flashinfer_python-{version}.dist-info"
    told.mkdir(parents=True)
    (told / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: flashinfer-python\nVersion: {version}\n"
    )
    (folder / "flashinfer").mkdir()
    (folder / "flashinfer" / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(folder))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"cached": False, "causal": False}, "encoder"),
        ({"sinks": True}, "sinks"),
        ({"head_dim": 80, "head_dim_v": 80}, "80/80"),
        ({"dtype": "float32"}, "float32"),
        ({"kv_dtype": "int8"}, "int8"),
        ({"latent": True}, "MLA"),
    ],
)
def test_what_it_cannot_serve_is_refused_with_the_reason(
    change: dict[str, object], word: str
) -> None:
    reasons = FlashInferAttention.supports(replace(SPEC, **change), CAPS)  # type: ignore[arg-type]
    missing = [reason for reason in reasons if "flashinfer-python is not installed" in reason]
    assert len(missing) == (find_spec("flashinfer") is None)
    (told,) = [reason for reason in reasons if reason not in missing]
    assert word in told


@here_without
def test_without_the_package_the_reason_names_the_extra() -> None:
    (reason,) = FlashInferAttention.supports(SPEC, CAPS)
    assert "flashinfer-python is not installed" in reason and "[flashinfer]" in reason


@here_without
@pytest.mark.parametrize(("version", "word"), [("0.7.2", "0.6.x"), ("0.6.1", "too old")])
def test_another_series_than_the_one_it_was_written_for_is_refused(
    version: str, word: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, version, monkeypatch)
    (reason,) = FlashInferAttention.supports(SPEC, CAPS)
    assert version in reason and word in reason


@here_without
def test_it_is_chosen_only_once_its_kernels_are_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path / "site", "0.6.12", monkeypatch)
    monkeypatch.setenv("FLASHINFER_WORKSPACE_BASE", str(tmp_path))
    windowed = replace(SPEC, window=512)
    (reason,) = FlashInferAttention.supports(windowed, CAPS)
    assert "--head-dim 128 --dtype bfloat16 --windowed" in reason
    name = Modules("bfloat16", 128, True, False).name("fa2")
    library = tmp_path / ".cache/flashinfer/0.6.12/90a/cached_ops" / name / f"{name}.so"
    library.parent.mkdir(parents=True)
    library.touch()
    assert FlashInferAttention.supports(windowed, CAPS) == ()
    assert FlashInferAttention.supports(SPEC, CAPS) != ()


def batch(queries: list[int], lens: list[int], decodes: int) -> StepBatch:
    total, width = sum(queries), -(-max(lens) // 16)
    return StepBatch(
        step=0,
        num_decodes=decodes,
        token_ids=np.zeros(total, np.int32),
        token_source=np.full(total, -1, np.int32),
        positions=np.zeros(total, np.int32),
        query_start=np.concatenate(([0], np.cumsum(queries))).astype(np.int32),
        seq_lens=np.array(lens, np.int32),
        lanes=np.arange(len(lens), dtype=np.int32),
        block_tables=(np.zeros((len(lens), width), np.int32),),
        slots=(np.zeros(total, np.int32),),
        sampled=np.arange(len(lens), dtype=np.int32),
    )


def backend() -> FlashInferAttention:
    """Without a device: what builds steps needs none."""
    made = FlashInferAttention.__new__(FlashInferAttention)
    made._spec = SPEC
    return made


def test_a_mixed_step_is_cut_at_its_first_prompt() -> None:
    meta = backend().build(batch([1, 1, 5, 20], [16, 17, 5, 40], 2), None)
    step = meta.host
    assert step.pages.tolist() == [0, 1, 3, 4, 7]  # type: ignore[attr-defined]
    assert step.last.tolist() == [16, 1, 5, 8]  # type: ignore[attr-defined]
    assert step.queries.tolist() == [0, 5, 25]  # type: ignore[attr-defined]
    assert (meta.static.decodes, meta.static.first_row) == (2, 2)  # type: ignore[attr-defined]
    assert not meta.static.graph  # type: ignore[attr-defined]


def test_a_bucket_of_decodes_is_one_program_whatever_the_lengths() -> None:
    bucket = Bucket("decode", 4, 4)
    one = backend().build(batch([1], [100], 1), bucket)
    other = backend().build(batch([1, 1, 1], [3, 80, 97], 3), bucket)
    assert one.static == other.static and hash(one.static) == hash(other.static)
    assert one.static.graph and one.static.decodes == 4  # type: ignore[attr-defined]


def test_a_step_is_planned_once_before_its_replay() -> None:
    meta = backend().build(batch([1], [100], 1), Bucket("decode", 1, 1))
    planned: list[object] = []
    meta.host.owner.plan = planned.append  # type: ignore[attr-defined]
    graphs = GpuGraphs.__new__(GpuGraphs)
    for _ in range(2):
        graphs.before_replay(Bucket("decode", 1, 1), (meta.host, None))
    assert planned == [meta.host]
