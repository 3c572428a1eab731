from inferplane.engine.reaper import reap
from inferplane.request import FinishReason
from inferplane.testing.null_engine import null_engine, null_plan, null_request


def test_only_requests_without_a_handle_are_ended() -> None:
    engine, _ = null_engine(null_plan())
    for name in "abc":
        engine.add(null_request(name, (1,), max_tokens=50))
    engine.step()
    assert reap(engine, ("b", "unknown")) == ("a", "c")
    assert [(o.request_id, o.finish) for o in engine.outputs] == [
        ("a", FinishReason.ABORT),
        ("c", FinishReason.ABORT),
    ]
    assert reap(engine, ("b",)) == ()
    assert list(engine.scheduler.sequences) == ["b"]
