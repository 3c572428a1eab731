"""Draws without a sort are the draws of the core's sorted reference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from inferplane.execution.host_runtime import HostRuntime
from inferplane.interfaces import OpSite
from inferplane.ops.reference.sampling import sample as reference
from inferplane.ops.sampling import SamplingTensors
from inferplane.testing.conformance import sample_cases
from inferplane_triton.gpu.platform import gpu_capabilities
from inferplane_triton.kernels.sampling import SAMPLE, argmax, decide, sample

ROWS, VOCABULARY = 4, 4999


@pytest.fixture(autouse=True)
def memory_holds_nan_at_first(device: str) -> Iterator[None]:
    """So that what no kernel has written is not taken for a zero."""
    if device != "cpu":
        yield
        return
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def sampling_of(device: str, **fixed: float) -> SamplingTensors:
    """Parameters drawn row by row, or the same in all where `fixed`."""

    def column(name: str, values: tuple[float, ...], dtype: torch.dtype) -> Tensor:
        if name in fixed:
            return torch.full((ROWS,), fixed[name], dtype=dtype, device=device)
        picked = torch.tensor(values)[torch.randint(len(values), (ROWS,))]
        return picked.to(dtype).to(device)

    return SamplingTensors(
        temperature=column("temperature", (0.0, 0.4, 1.0, 1.6), torch.float32),
        top_k=column("top_k", (0, 1, 5, 900, 9000), torch.int32),
        top_p=column("top_p", (1.0, 0.9, 0.2), torch.float32),
        min_p=column("min_p", (0.0, 0.1), torch.float32),
        seed=torch.randint(2**62, (ROWS,), device=device),
        position=torch.randint(2**33, (ROWS,), device=device),
        greedy=False,
        truncated=True,
    )


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("spread", [4.0, 0.3])
def test_peaked_and_flat_rows_draw_the_reference_token(
    spread: float, seed: int, device: str
) -> None:
    torch.manual_seed(seed)
    logits = torch.randn(ROWS, VOCABULARY, device=device) * spread
    logits[3] = (logits[3] * 4).round() / 4  # ties
    logits[2] = torch.nan
    sampling = sampling_of(device)
    ours, theirs = sample(logits, sampling)[0], reference(logits, sampling)[0]
    assert ours.tolist() == theirs.tolist()


UNCUT = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}
FAR = {
    "no cut": UNCUT,
    "top-p": {**UNCUT, "top_p": 0.95},
    "top-p that leaves the best": {**UNCUT, "top_p": 0.0},
    "top-k": {**UNCUT, "top_k": 3000},
    "top-k and min-p": {**UNCUT, "top_k": 3000, "min_p": 0.3},
    "min-p": {**UNCUT, "min_p": 0.2},
    "min-p that cuts nothing": {**UNCUT, "min_p": 1e-7},
    "top-p and min-p": {"top_k": 0, "top_p": 0.8, "min_p": 0.01},
}
"""Cuts that leave more of a flat row than there may be candidates, and the nearest one."""


def refined(logits: Tensor, best: Tensor, sampling: SamplingTensors) -> Tensor:
    """Ids of rows that the nearest elements have not decided, any of them."""
    assert sampling.temperature is not None
    ids = torch.where((sampling.temperature > 0) & (best >= 0), -2, best)
    decide(logits, ids, best, sampling)
    return ids


@pytest.mark.parametrize("spread", [1.0, 0.2])
@pytest.mark.parametrize("kind", FAR)
def test_flat_rows_need_no_search(kind: str, spread: float, device: str) -> None:
    logits = torch.randn(ROWS, VOCABULARY, device=device) * spread
    sampling = sampling_of(device, temperature=1.0, **FAR[kind])
    ours, theirs = refined(logits, argmax(logits), sampling), reference(logits, sampling)[0]
    assert ours.tolist() == theirs.tolist()


def test_a_step_without_cuts_leaves_out_what_serves_them(device: str) -> None:
    logits = torch.randn(ROWS, VOCABULARY, device=device)
    sampling = replace(sampling_of(device, **UNCUT), truncated=False)
    ours, theirs = refined(logits, argmax(logits), sampling), reference(logits, sampling)[0]
    assert ours.tolist() == theirs.tolist()


def test_top_k_of_more_tokens_than_a_mask_leaves_cuts_nothing(device: str) -> None:
    logits = torch.randn(ROWS, VOCABULARY, device=device)
    logits[:, torch.randperm(VOCABULARY)[200:].to(device)] = -torch.inf
    sampling = sampling_of(device, temperature=1.0, **{**UNCUT, "top_k": 300})
    ours, theirs = refined(logits, argmax(logits), sampling), reference(logits, sampling)[0]
    assert ours.tolist() == theirs.tolist()


@pytest.mark.parametrize("vocabulary", [1, 2047, 2048, 6145])
def test_any_vocabulary_is_drawn_from(vocabulary: int, device: str) -> None:
    logits = torch.randn(ROWS, vocabulary, device=device)
    sampling = sampling_of(device, temperature=1.3, **{**UNCUT, "top_p": 0.9})
    ours, theirs = sample(logits, sampling)[0], reference(logits, sampling)[0]
    assert ours.tolist() == theirs.tolist()


@pytest.mark.parametrize(
    "fixed",
    [UNCUT, {**UNCUT, "top_p": 0.7}, {**UNCUT, "top_k": 300}, {**UNCUT, "min_p": 0.5}],
)
def test_rows_of_equal_logits_are_searched(fixed: dict[str, float], device: str) -> None:
    logits = torch.full((ROWS, VOCABULARY), 2.5, device=device)
    sampling = sampling_of(device, temperature=1.0, **fixed)
    assert refined(logits, argmax(logits), sampling).tolist() == [-2] * ROWS
    ours, theirs = sample(logits, sampling)[0], reference(logits, sampling)[0]
    assert ours.tolist() == theirs.tolist()


def test_top_p_of_more_than_the_candidates_by_top_k_is_searched(device: str) -> None:
    logits = torch.randn(ROWS, VOCABULARY, device=device)
    sampling = sampling_of(device, temperature=1.0, **{**UNCUT, "top_k": 3000, "top_p": 0.9})
    assert refined(logits, argmax(logits), sampling).tolist() == [-2] * ROWS
    ours, theirs = sample(logits, sampling)[0], reference(logits, sampling)[0]
    assert ours.tolist() == theirs.tolist()


def test_greedy_rows_keep_their_best_beside_drawn_ones(device: str) -> None:
    logits = torch.randn(ROWS, VOCABULARY, device=device)
    logits[1] *= 8
    sampling = sampling_of(device, **{**UNCUT, "top_p": 0.95})
    temperature = torch.tensor([0.0, 1.0, 1.0, 0.0], device=device)
    sampling = replace(sampling, temperature=temperature)
    best = argmax(logits)
    best[2] = -1
    ours = refined(logits, best, sampling)
    theirs = reference(logits, sampling)[0]
    theirs[2] = -1
    assert ours.tolist() == theirs.tolist()
    assert ours[[0, 3]].tolist() == best[[0, 3]].tolist()


def test_bias_masks_and_log_probabilities_are_the_references(device: str) -> None:
    logits = torch.randn(ROWS, VOCABULARY, device=device) * 3
    plain = sampling_of(device)
    sampling = SamplingTensors(
        **{name: getattr(plain, name) for name in ("temperature", "top_k", "top_p", "min_p")},
        seed=plain.seed,
        position=plain.position,
        bias_rows=torch.tensor([0, 3], dtype=torch.int32, device=device),
        bias_ids=torch.tensor([7, 8], dtype=torch.int32, device=device),
        bias_values=torch.tensor([100.0, -torch.inf], device=device),
        logprob_rows=torch.tensor([0, 2], dtype=torch.int32, device=device),
        num_logprobs=3,
        greedy=False,
        truncated=True,
    )
    (ids, scores), (wanted, wanted_scores) = sample(logits, sampling), reference(logits, sampling)
    assert ids.tolist() == wanted.tolist() and ids[0] == 7
    assert scores is not None and wanted_scores is not None
    assert scores.ids.tolist() == wanted_scores.ids.tolist()


def test_the_kit_finds_no_fault(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sample_cases, "NUM_ROWS", 1)  # one of each kind: it also mixes all kinds
    parts: Any = SimpleNamespace(runtime=HostRuntime(), torch_device="cpu")

    def run(logits: Tensor, sampling: SamplingTensors) -> tuple[Tensor, None]:
        moved = {f.name: getattr(sampling, f.name) for f in fields(sampling)}
        moved = {n: x.to(device) if isinstance(x, Tensor) else x for n, x in moved.items()}
        return sample(logits.to(device), SamplingTensors(**moved))[0], None

    assert sample_cases.sample_faults(run, parts) == []


def test_other_logits_than_float32_are_refused_with_the_reason() -> None:
    caps = gpu_capabilities(("bfloat16",), "none")
    assert SAMPLE.supports(OpSite("sample/1", "float32", {"V": 9}), caps) == ()
    (reason,) = SAMPLE.supports(OpSite("sample/1", "bfloat16", {"V": 9}), caps)
    assert "bfloat16" in reason
