import os
import subprocess
import sys

from inferplane.engine.watchdog import Tick

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
