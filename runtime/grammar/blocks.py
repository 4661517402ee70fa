"""A piece as the machine reads it: an automaton's table, and what else is known of each of its states."""

import functools

import numpy as np
import numpy.typing as npt

from branchwork.runtime.grammar import normal
from branchwork.runtime.grammar.dfa import DEAD, Dfa
from branchwork.runtime.grammar.machine import program
from branchwork.runtime.grammar.machine.program import COST_LIMIT, Code
from branchwork.runtime.grammar.spans import Counted, spans


@functools.lru_cache(maxsize=1024)
def block_of(language: Dfa, counted: Counted) -> Code:
    """The piece's words, as `program` lays them out."""
    live = language.table[:, language.classes] != DEAD
    counts = live.sum(axis=1)
    single = np.where(counts == 1, live.argmax(axis=1), program.MANY_BYTES)
    single[counts == 0] = program.NO_BYTE
    wide = counts + program.LEAD_WEIGHT * live[:, 0xC2:0xF5].sum(axis=1) >= program.WIDE_FROM
    flags = language.accepting * program.ACCEPTING + wide * program.WIDE + (single << 8)
    need = np.zeros(language.num_states, np.int64)
    if counted is not None:
        flags = flags + np.array(counted) * program.COUNTS
        need = needs(language, counted)
    head = (language.num_states, language.table.shape[1], language.start, need[1:].max(initial=0))
    classes = np.ascontiguousarray(language.classes).view(np.int32)
    groups, span = spans(language, counted, need, wide)
    words = [
        head,
        classes,
        flags,
        language.distances(),
        need,
        groups.view(np.int32),
        span,
        language.table.ravel(),
    ]
    return np.concatenate(words).astype(np.int32)


@functools.lru_cache(maxsize=1024)
def needs(language: Dfa, counted: tuple[bool, ...]) -> npt.NDArray[np.int64]:
    """For each state, how many counted states at least are arrived at before acceptance."""
    found = normal.fewest(language.table, language.accepting, np.array(counted))
    return np.where(found < 0, COST_LIMIT, found)
