"""Which constraints the device follows by itself, each in one of the blocks that it has for them."""

import weakref
from collections import OrderedDict
from dataclasses import dataclass

from branchwork.runtime.grammar.interface import Grammar, Matcher, Vocabulary
from branchwork.runtime.grammar.token_machine import MachineBuilder, TokenMachine, TokenTable
from branchwork.runtime.plan import Place

# A block that was asked for in one of so many last plans may be in use by a step in flight, or by the next one.
PLANS_IN_USE = 2

# Constraints whose machines are kept, least recently used out: up to 1.5 MB each at 151k tokens.
MAX_KNOWN = 128

# Places that are looked at between two steps: one takes up to some 3 ms at 151k tokens.
PLACES_AT_ONCE = 1


@dataclass(slots=True)
class _Block:
    """What a block of the device holds, and the plan that asked for it last."""

    machine: TokenMachine | None = None
    last_plan: int = -PLANS_IN_USE - 1


class Machines:
    """Builds machines of constraints while they are in use, and seats them in blocks, least recently used out first.

    A constraint has none at first, since building takes some steps; and for good if it is too big.
    """

    def __init__(self, num_blocks: int, vocabulary: Vocabulary) -> None:
        self._vocabulary = vocabulary
        self._table: TokenTable | None = None
        self._builders: OrderedDict[weakref.ref[Grammar], MachineBuilder] = OrderedDict()
        self._unfinished: list[MachineBuilder] = []
        self._blocks = [_Block() for _ in range(num_blocks)]
        self._plan = 0

    def turn(self) -> None:
        """A plan is to be made: build a little, so that no step waits long for it."""
        self._plan += 1
        for _ in range(PLACES_AT_ONCE):
            if self._unfinished and self._unfinished[0].work():
                del self._unfinished[0]

    def place(self, grammar: Grammar, matcher: Matcher) -> Place | None:
        """Where a matcher of the grammar stands, on the device; None: the host has to say what may follow.

        Who has got one in the last plan can have `place.onward` in this one, whatever became of the block's others.
        """
        if not self._blocks:
            return None
        machine = self._machine(grammar)
        where = matcher.place() if machine is not None else None
        state = machine.state_of.get(where) if machine is not None else None
        if machine is None or state is None:
            return None
        number = self._seat(machine)
        return None if number is None else Place(number, machine, state)

    def onward(self, place: Place) -> Place:
        """Where a request will stand that has got `place` in the last plan: one token on, the device knows where."""
        self._blocks[place.block].last_plan = self._plan
        return Place(place.block, place.machine, None)

    def _machine(self, grammar: Grammar) -> TokenMachine | None:
        key = weakref.ref(grammar)
        builder = self._builders.get(key)
        if builder is None:
            self._table = self._table or TokenTable(self._vocabulary)
            builder = self._builders[key] = MachineBuilder(grammar, self._table)
            self._unfinished.append(builder)
            if len(self._builders) > MAX_KNOWN:
                _, oldest = self._builders.popitem(last=False)
                self._unfinished = [one for one in self._unfinished if one is not oldest]
        self._builders.move_to_end(key)
        return builder.machine

    def _seat(self, machine: TokenMachine) -> int | None:
        """The block that holds the machine, or is to hold it from this plan on."""
        number = next((i for i, block in enumerate(self._blocks) if block.machine is machine), None)
        if number is None:
            number = min(range(len(self._blocks)), key=lambda i: self._blocks[i].last_plan)
            if self._plan - self._blocks[number].last_plan <= PLANS_IN_USE:
                return None
            self._blocks[number].machine = machine
        self._blocks[number].last_plan = self._plan
        return number
