"""Order between kernels: what may begin before this one has ended."""

import triton
import triton.language as tl


@triton.jit
def meet_neighbours(EARLY: tl.constexpr):
    """First thing in a kernel. EARLY: it was launched with `launch_pdl`, so that it may be in place
    before the kernel in front of it has ended (programmatic dependent launch, CUDA from sm_90 on).

    The next kernel may come into place as well, and this one waits for what is before it.
    """
    if EARLY:
        tl.extra.cuda.gdc_launch_dependents()
        tl.extra.cuda.gdc_wait()
