"""Following a grammar on the device: from a request's state and its token to the next state and its mask."""

import triton
import triton.language as tl
from torch import Tensor

from branchwork.kernels import automaton
from branchwork.kernels.automaton import Automata, Places

_DONE, _FORCED = tl.constexpr(automaton.DONE), tl.constexpr(automaton.FORCED)
_BLOCK = 128


@triton.jit
def fsm_advance_kernel(
    tokens, grammars, states, mask_rows, dones, forceds, class_of, next_state, flags, class_start, next_start,
    num_classes, state_start, num_requests, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program: BLOCK requests. A token that may not follow leaves the state and ends the request."""
    request = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    real = request < num_requests
    grammar = tl.load(grammars + request, mask=real, other=-1)
    bound = grammar >= 0
    state = tl.load(states + request, mask=bound, other=0)
    token = tl.load(tokens + request, mask=bound, other=-1)
    chosen = bound & (token >= 0)
    kind = tl.load(
        class_of + tl.load(class_start + grammar, mask=chosen, other=0) + token,
        mask=chosen,
        other=0,
    ).to(tl.int32)
    width = tl.load(num_classes + grammar, mask=chosen, other=0).to(tl.int64)
    line = tl.load(next_start + grammar, mask=chosen, other=0) + state * width
    following = tl.load(next_state + line + kind, mask=chosen, other=-1)
    allowed = chosen & (following >= 0)
    state = tl.where(allowed, following, state)
    row = tl.load(state_start + grammar, mask=bound, other=0) + state
    flag = tl.load(flags + row, mask=bound, other=0).to(tl.int32)
    done = ((flag & _DONE) != 0) | (bound & (allowed == 0))
    tl.store(states + request, state, mask=bound)
    tl.store(mask_rows + request, row, mask=bound)
    tl.store(dones + request, done.to(tl.int8), mask=real)
    tl.store(forceds + request, (((flag & _FORCED) != 0) & (done == 0)).to(tl.int8), mask=real)


def fsm_advance(tokens: Tensor, automata: Automata, places: Places) -> None:
    """See `api.fsm_advance`."""
    num_requests = tokens.shape[0]
    fsm_advance_kernel[(triton.cdiv(num_requests, _BLOCK),)](
        tokens, places.grammar, places.state, places.mask_row, places.done, places.forced, automata.class_of,
        automata.next_state, automata.flags, automata.class_start, automata.next_start, automata.num_classes,
        automata.state_start, num_requests, BLOCK=_BLOCK, num_warps=4,
    )  # fmt: skip
