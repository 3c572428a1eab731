import asyncio

import pytest

from inferplane.engine.messages import SequenceOutput, TokenLogprobs
from inferplane.engine.streams import GenerationStream, merge_outputs
from inferplane.request import FinishReason

pytestmark = pytest.mark.asyncio


class Told:
    """What a stream asked for."""

    def __init__(self) -> None:
        self.aborted: list[tuple[tuple[str, ...], FinishReason]] = []
        self.collected: list[tuple[str, ...]] = []

    def stream(self, *ids: str) -> GenerationStream:
        return GenerationStream(
            "r", ids, lambda ids, reason: self.aborted.append((ids, reason)), self.collected.append
        )


def output(child: str, *token_ids: int, finish: FinishReason | None = None) -> SequenceOutput:
    return SequenceOutput(child, token_ids, finish=finish)


async def test_outputs_that_queued_up_are_merged_per_index() -> None:
    stream = Told().stream("a", "b")
    for part in (output("a", 1), output("b", 7), output("a", 2), output("b", 8, 9)):
        stream.deliver(part)
    assert [await anext(stream) for _ in "ab"] == [
        (0, output("a", 1, 2)),
        (1, output("b", 7, 8, 9)),
    ]


async def test_a_reader_that_waits_gets_each_output_as_it_comes() -> None:
    stream = Told().stream("a")
    reading = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    assert not reading.done()
    stream.deliver(output("a", 1))
    assert await reading == (0, output("a", 1))


async def test_the_iteration_ends_when_every_child_ended() -> None:
    stream = Told().stream("a", "b")
    stream.deliver(output("a", 1, finish=FinishReason.LENGTH))
    stream.deliver(output("b", finish=FinishReason.ERROR))
    assert len([item async for item in stream]) == 2
    stream.deliver(output("a", 5))
    assert [item async for item in stream] == []


async def test_collect_gives_one_output_for_each_child_by_index() -> None:
    stream = Told().stream("a", "b")
    stream.deliver(output("b", 7, finish=FinishReason.STOP))
    stream.deliver(output("a", 1))
    stream.deliver(output("a", 2, finish=FinishReason.LENGTH))
    assert [part.token_ids for part in await stream.collect()] == [(1, 2), (7,)]


async def test_finish_stops_one_child_and_drops_what_it_still_sends() -> None:
    told = Told()
    stream = told.stream("a", "b")
    stream.deliver(output("a", 1))
    stream.finish(0)
    stream.finish(0)
    stream.deliver(output("a", 2, finish=FinishReason.STOP))
    stream.deliver(output("b", 7, finish=FinishReason.LENGTH))
    assert told.aborted == [(("a",), FinishReason.STOP)]
    assert [index async for index, _ in stream] == [1]


async def test_abort_ends_a_reader_that_waits() -> None:
    told = Told()
    stream = told.stream("a", "b")
    reading = asyncio.create_task(stream.collect())
    await asyncio.sleep(0)
    stream.abort()
    stream.abort()
    assert await reading == []
    assert told.aborted == [(("a", "b"), FinishReason.ABORT)]


async def test_a_dropped_stream_asks_for_its_unfinished_children_to_end() -> None:
    told = Told()
    stream = told.stream("a", "b")
    stream.deliver(output("a", finish=FinishReason.STOP))
    del stream
    assert told.collected == [("b",)]
    finished = told.stream("c")
    finished.deliver(output("c", finish=FinishReason.STOP))
    del finished
    assert told.collected == [("b",)]


async def test_merging_keeps_first_and_last_things_in_their_places() -> None:
    entry = TokenLogprobs((1,), (-0.5,), 1)
    merged = merge_outputs(
        [
            SequenceOutput(
                "a",
                (1,),
                (entry,),
                prompt_logprobs=(None, entry),
                cached_tokens=16,
                queue_s=0.25,
                prefill_s=0.5,
            ),
            SequenceOutput("a", (2,), (entry,)),
            SequenceOutput("a", (3,), (entry,), finish=FinishReason.STOP, stop_reason=3),
        ]
    )
    assert merged == SequenceOutput(
        "a",
        (1, 2, 3),
        (entry,) * 3,
        prompt_logprobs=(None, entry),
        finish=FinishReason.STOP,
        stop_reason=3,
        cached_tokens=16,
        queue_s=0.25,
        prefill_s=0.5,
    )
