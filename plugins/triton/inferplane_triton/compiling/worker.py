"""A process that compiles kernels: jobs come in, seconds or errors go out, one for each job."""

from __future__ import annotations

import json
import os
import sys

__all__ = ["main"]


def main() -> None:
    """Until the other side closes its end."""
    sys.path[:] = json.loads(sys.argv[1])
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints must not mix with the answers
    from inferplane_triton.compiling.jobs import compile_job, job_of  # after the path is known

    for line in sys.stdin.buffer:
        try:
            answer: float | str = compile_job(job_of(line))
        except Exception as error:
            answer = f"{type(error).__name__}: {error}"
        answers.write(json.dumps(answer).encode() + b"\n")
        answers.flush()
