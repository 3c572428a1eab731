import os
import subprocess
import sys

from inferplane.engine.watchdog import Tick, WakingTime

BEAT = "import sys; from inferplane.engine.watchdog import Tick; Tick(int(sys.argv[1])).beat()"


def test_a_beat_of_another_process_is_seen_here() -> None:
    tick = Tick.create()
    before = tick.age_s()
    assert tick.age_s() >= before >= 0.0
    subprocess.run([sys.executable, "-c", BEAT, str(tick.fd)], pass_fds=(tick.fd,), check=True)
    between = tick.age_s()
    tick.beat()
    assert tick.age_s() < between
    tick.close()


def test_closing_gives_the_descriptor_back() -> None:
    tick = Tick.create()
    fd = tick.fd
    tick.close()
    try:
        os.fstat(fd)
    except OSError:
        return
    raise AssertionError("the descriptor is still open")


def test_a_silence_counts_while_the_watcher_is_awake() -> None:
    awake = WakingTime(break_s=5.0, now_s=100.0)
    assert [awake.of(age, 100.0 + age) for age in (1.0, 2.0, 6.0, 10.0)] == [1.0, 2.0, 6.0, 10.0]


def test_what_stopped_the_watcher_too_is_no_silence_of_the_engine() -> None:
    awake = WakingTime(break_s=5.0, now_s=100.0)
    assert awake.of(1.0, 101.0) == 1.0
    assert awake.of(901.0, 1001.0) == 0.0
    assert awake.of(903.0, 1003.0) == 2.0
    assert awake.of(0.5, 1004.0) == 0.5
