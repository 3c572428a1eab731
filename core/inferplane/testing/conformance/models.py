"""Level 6, models: a device computes the model, however the steps are cut and mixed.

T tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from inferplane.errors import ConfigError
from inferplane.execution.artifact_cache import DiskCache
from inferplane.interfaces import Array
from inferplane.sampling.host_sampler import log_softmax
from inferplane.testing.conformance.base import Conformance
from inferplane.testing.conformance.drawing import Draw
from inferplane.testing.conformance.draws import within
from inferplane.testing.conformance.driver import Driver, Live, Work
from inferplane.testing.conformance.state import KitState, Started
from inferplane.testing.conformance.subject import Subject
from inferplane.testing.conformance.tolerances import FORCED_TOKENS
from inferplane.testing.reference import ReferenceModel
from inferplane.testing.tiny import TINY_MODELS

__all__ = ["ModelsConformance"]

PROMPT = 45
"""Tokens: longer than the windows of the tiny models, and no multiple of a block."""
OUTPUT = 16


class ModelsConformance(Conformance):
    """L6, for every tiny model that the platform does not refuse."""

    level: ClassVar[int] = 6

    @pytest.fixture(params=list(TINY_MODELS))
    def started(
        self, request: pytest.FixtureRequest, subject: Subject, inferplane_kit: KitState
    ) -> Started:
        """A tiny model on the device; one it refuses with a reason is skipped."""
        try:
            return inferplane_kit.started(subject, request.param)
        except ConfigError as refusal:
            pytest.skip(f"{request.param}: {refusal}")

    @pytest.fixture
    def driver(self, started: Started) -> Driver:
        """It, to be driven."""
        return started.new_driver()

    def test_some_model_is_served(self, subject: Subject, inferplane_kit: KitState) -> None:
        """A device that refuses everything is honest, and no use."""
        refusals = []
        for kind in TINY_MODELS:
            try:
                subject.plan(inferplane_kit.model(kind))
                return
            except ConfigError as refusal:
                refusals.append(f"{kind}: {refusal}")
        pytest.fail("\n".join(refusals))

    def test_forced_tokens_have_the_models_probabilities(
        self, started: Started, driver: Driver
    ) -> None:
        """Random tokens, part prefilled and part decoded, against the kit's own decoder."""
        dtype = started.plan.config.dtype
        dtype = started.plan.model.dtype if dtype == "auto" else dtype
        tokens = _tokens(driver, 1, PROMPT + 12)
        truth_TV = log_softmax(ReferenceModel(started.model).logits(tokens))
        rows, best = _forced(driver, tokens, PROMPT)
        _assert_close(truth_TV[PROMPT - 1 : -1], rows, best, tokens[PROMPT:], dtype)

    def test_greedy_output_is_the_models(self, started: Started, driver: Driver) -> None:
        """Token for token in float32."""
        prompt = _tokens(driver, 2, PROMPT)
        want = ReferenceModel(started.model).greedy(prompt, OUTPUT)
        if _is_exact(started):
            assert driver.generate(prompt, OUTPUT) == want

    def test_company_changes_nothing(self, started: Started, driver: Driver) -> None:
        """Alone or in a batch with others, at different lengths: the same tokens."""
        count = min(5, driver.max_num_seqs)
        prompts = [_tokens(driver, 10 + n, 4 + 9 * n) for n in range(count)]
        alone = [driver.generate(prompt, OUTPUT) for prompt in prompts]
        lives = [driver.begin(prompt) for prompt in prompts]
        rows = [driver.prefill(live, Draw()) for live in lives]
        outputs = [[row.token_ids[0]] for row in rows]
        for _ in range(OUTPUT - 1):
            for live, output in zip(lives, outputs, strict=True):
                live.tokens.append(output[-1])
            works = [Work(live, 1, Draw()) for live in lives]
            for output, row in zip(outputs, driver.step(works), strict=True):
                output.append(row.token_ids[0])
        driver.end(*lives)
        if _is_exact(started):
            assert outputs == alone

    @pytest.mark.parametrize("chunk", [1, 7, 16])
    def test_how_a_prompt_is_cut_changes_nothing(
        self, started: Started, driver: Driver, chunk: int
    ) -> None:
        """Chunked prefill, down to one token at a time."""
        limits = driver.caps.limits
        if not limits.chunked_prefill or chunk % limits.chunk_multiple:
            pytest.skip("the device does not claim such chunks")
        prompt = _tokens(driver, 3, PROMPT)
        whole = driver.generate(prompt, 4)
        live = driver.begin(prompt)
        row = driver.prefill(live, Draw(), chunk)
        out = _go_on(driver, live, row.token_ids[0], 4)
        driver.end(live)
        if _is_exact(started):
            assert out == whole

    def test_prefill_beside_decoding_changes_nothing(
        self, started: Started, driver: Driver
    ) -> None:
        """One sequence decodes while another's prompt comes in, in pieces."""
        limits = driver.caps.limits
        if not (limits.mix_prefill_decode and limits.chunked_prefill):
            pytest.skip("the device does not claim mixed steps")
        first, second = _tokens(driver, 4, 20), _tokens(driver, 5, 41)
        alone = driver.generate(first, 8), driver.generate(second, 3)
        a, b = driver.begin(first), driver.begin(second)
        out = [driver.prefill(a, Draw()).token_ids[0]]
        row_b = None
        while b.computed < b.num_prompt:
            count = min(9, b.num_prompt - b.computed)
            a.tokens.append(out[-1])
            last = b.computed + count == b.num_prompt
            works = [Work(a, 1, Draw()), Work(b, count, Draw() if last else None)]
            row_a, row_b = driver.step(works)
            out.append(row_a.token_ids[0])
        assert row_b is not None
        out = _go_on(driver, a, out[-1], 8, out)
        out_b = _go_on(driver, b, row_b.token_ids[0], 3)
        driver.end(a, b)
        if _is_exact(started):
            assert (out, out_b) == alone

    def test_a_shared_prefix_is_computed_once(self, started: Started, driver: Driver) -> None:
        """The second sequence begins where whole blocks of the first one end."""
        if not driver.caps.limits.prefix_cache:
            pytest.skip("the device does not claim a prefix cache")
        prompt = _tokens(driver, 6, PROMPT)
        keep = PROMPT // driver.kv.block_size * driver.kv.block_size
        if not keep or any(group.window for group in driver.kv.groups):
            pytest.skip("no whole block of the prompt is kept")
        tail = _tokens(driver, 7, 6)
        want = driver.generate([*prompt[:keep], *tail], 5)
        live = driver.begin(prompt)
        driver.prefill(live)
        twin, pairs = driver.fork(live, keep)
        assert pairs == []
        twin.tokens += tail
        twin.num_prompt = len(twin.tokens)
        out = _go_on(driver, twin, driver.prefill(twin, Draw()).token_ids[0], 5)
        driver.end(live)
        driver.end(twin, recycle=False)
        if _is_exact(started):
            assert out == want

    def test_a_preempted_sequence_goes_on_as_if_nothing_happened(
        self, started: Started, driver: Driver
    ) -> None:
        """Its blocks are taken, everything is computed again elsewhere, chance included."""
        draw = Draw()
        if {"temperature", "seed"} <= set(driver.caps.sampler.params):
            draw = within(Draw(temperature=0.9, seed=77), driver.caps.sampler)
        prompt = _tokens(driver, 8, 30)
        whole = driver.generate(prompt, 10, draw)
        taken = driver.generate(prompt, 4, draw)
        driver.free_blocks.reverse()
        live = driver.begin([*prompt, *taken])
        row = driver.prefill(live, draw)
        rest = _go_on(driver, live, row.token_ids[0], 6, draw=draw)
        driver.end(live)
        if _is_exact(started):
            assert [*taken, *rest] == whole

    def test_tokens_may_stay_on_the_device(self, started: Started, driver: Driver) -> None:
        """Steps are enqueued before the last one's tokens are known, rows in changing order."""
        if not driver.caps.limits.async_steps:
            pytest.skip("the device does not claim overlapping steps")
        prompts = [_tokens(driver, 20 + n, 5 + 6 * n) for n in range(min(4, driver.max_num_seqs))]
        alone = [driver.generate(prompt, 7) for prompt in prompts]
        lives = [driver.begin(prompt) for prompt in prompts]
        outputs = [[driver.prefill(live, Draw()).token_ids[0]] for live in lives]
        order = list(range(len(lives)))
        for live, output in zip(lives, outputs, strict=True):
            live.tokens.append(output[0])
        pending = [(list(order), driver.enqueue([Work(lives[n], 1, Draw()) for n in order]))]
        for turn in range(5):
            previous = list(order)
            order = order[1:] + order[:1] if turn % 2 else list(reversed(order))
            works = [Work(lives[n], 1, Draw(), source=previous.index(n)) for n in order]
            pending.append((list(order), driver.enqueue(works)))
        for rows, step in pending:
            for row, place in enumerate(rows):
                outputs[place].append(int(step.result().token_ids[row, 0]))
        driver.end(*lives)
        if _is_exact(started):
            assert outputs == alone

    def test_guesses_change_speed_and_nothing_else(self, started: Started, driver: Driver) -> None:
        """Right drafts are accepted, the first wrong one ends the run, and is replaced."""
        most = min(3, driver.caps.limits.max_drafts)
        if not most:
            pytest.skip("the device does not claim drafts")
        for seed in (31, 32):
            prompt = _tokens(driver, seed, 24)
            want = driver.generate(prompt, 12)
            for wrong in range(most + 1):
                assert _speculate(driver, prompt, want, most, wrong) == want, wrong

    def test_a_real_model_agrees_with_the_core_alone(
        self, subject: Subject, request: pytest.FixtureRequest, inferplane_kit: KitState
    ) -> None:
        """With --inferplane-model PATH: the same model on the core's reference in float32."""
        path = request.config.getoption("--inferplane-model")
        if not path:
            pytest.skip("no model named: --inferplane-model PATH")
        from inferplane.testing.conformance.core_alone import CoreAlone  # torch: only with a model

        model = Path(path)
        cache = DiskCache(inferplane_kit.folder("cache"))
        reference = CoreAlone(subject.plan(model, dtype="auto"), cache)
        tokens = [int(t) for t in np.random.default_rng(1).integers(5, 1000, 64)]
        mine = inferplane_kit.start(subject, model, dtype="auto")
        rows, best = _forced(mine.new_driver(), tokens, 40)
        truth = log_softmax(reference.logits(tokens, 40))
        mine.executor.close()
        _assert_close(truth, rows, best, tokens[40:], mine.plan.config.dtype)


def _is_exact(started: Started) -> bool:
    """Whether tokens must agree to the last: in float32 they must."""
    config = started.plan.config
    return (started.plan.model.dtype if config.dtype == "auto" else config.dtype) == "float32"


def _tokens(driver: Driver, seed: int, count: int) -> list[int]:
    rng = np.random.default_rng(seed)
    return [int(t) for t in rng.integers(3, driver.vocab_size, count)]


def _go_on(
    driver: Driver,
    live: Live,
    token: int,
    count: int,
    so_far: Sequence[int] = (),
    draw: Draw | None = None,
) -> list[int]:
    """`so_far` or [`token`], and what follows, `count` in all."""
    out = list(so_far) or [token]
    while len(out) < count:
        live.tokens.append(out[-1])
        out.append(driver.step([Work(live, 1, draw or Draw())])[0].token_ids[0])
    return out


def _forced(
    driver: Driver, tokens: Sequence[int], num_prompt: int
) -> tuple[list[Array | None], list[int]]:
    """Log-probabilities after each token from the prompt's last on, and the best token there."""
    host = driver.caps.sampler.host_rows
    live = driver.begin(tokens[:num_prompt])
    rows, best = [], []
    for place in range(num_prompt, len(tokens)):
        row = driver.step([Work(live, len(live.tokens) - live.computed, Draw(), host=host)])[0]
        if host:
            assert row.logits is not None
            rows.append(log_softmax(row.logits[None])[0])
            best.append(int(row.logits.argmax()))
        else:
            rows.append(None)
            best.append(row.token_ids[0])
        live.tokens.append(tokens[place])
    driver.end(live)
    return rows, best


def _assert_close(
    truth: Array,
    rows: Sequence[Array | None],
    best: Sequence[int],
    tokens: Sequence[int],
    dtype: str,
) -> None:
    most, share = FORCED_TOKENS[dtype]
    off = [
        abs(float(row[token] - want[token]))
        for row, want, token in zip(rows, truth, tokens, strict=True)
        if row is not None
    ]
    if off:
        assert float(np.mean(off)) <= most, f"mean |delta log-probability| {np.mean(off):.3g}"
    clear = [want.max() - want[token] < most for want, token in zip(truth, best, strict=True)]
    assert np.mean(clear) >= share, f"the best token differs in {1 - np.mean(clear):.1%}"


def _speculate(
    driver: Driver, prompt: Sequence[int], want: Sequence[int], most: int, wrong: int
) -> list[int]:
    """Generate `want` with drafts of which the one at place `wrong` is not what follows."""
    live = driver.begin(prompt)
    out = [driver.prefill(live, Draw()).token_ids[0]]
    while len(out) < len(want):
        count = min(most, len(want) - len(out))
        drafts = list(want[len(out) : len(out) + count])
        if wrong < len(drafts):
            drafts[wrong] = (drafts[wrong] + 1) % driver.vocab_size
        live.tokens = [*prompt, *out, *drafts]
        row = driver.step([Work(live, 1 + count, Draw(), drafts=count)])[0]
        assert len(row.token_ids) == min(wrong, count) + 1, "accepted drafts, then the drawn token"
        live.computed += len(row.token_ids) - 1
        out += row.token_ids
    driver.end(live)
    return out[: len(want)]
