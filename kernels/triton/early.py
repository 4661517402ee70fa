"""Launches that begin while the one before them ends: programmatic dependent launch, from sm_90 on.

A kernel that is launched so calls `after_the_last` before anything else, in every program: what it reads and overwrites
is then that of a launch which is over, and so are all before that one. What is saved is the time in which a launch gets
ready, and the emptying of the device before it. The launch before may be anyone's: one that gives no sign (a library's
product) is followed when its programs are done.
"""

import torch
import triton
import triton.language as tl

from branchwork.kernels.triton.capability import capability_of


@triton.jit
def after_the_last(EARLY: tl.constexpr):
    """Wait until the launch before this one is over and its stores are seen; then the next may get ready."""
    if EARLY:
        tl.extra.cuda.gdc_wait()
        tl.extra.cuda.gdc_launch_dependents()


def early(device: torch.device) -> dict[str, bool]:
    """What such a launch is given; before sm_90 it is an ordinary one."""
    can = capability_of(device) >= 90
    return {"EARLY": can, "launch_pdl": can}
