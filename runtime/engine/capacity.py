"""How long a branch can be, and what to tell those who want a longer one."""

from dataclasses import dataclass

from branchwork.runtime.wire.errors import RequestTooLong


@dataclass(frozen=True, slots=True)
class Capacity:
    """`context_len` is what the model is run with, `num_slots` the size of the KV pool.

    `max_len_is_set`: the operator has set the context by --max-len, and so could raise it.
    """

    context_len: int
    num_slots: int
    max_len_is_set: bool = False

    @property
    def max_tokens(self) -> int:
        """The longest branch that can be served."""
        return min(self.context_len, self.num_slots)

    def check(self, num_tokens: int, what: str = "prompt") -> None:
        """Raises RequestTooLong, with both numbers and what to change, if so many tokens cannot be served."""
        if num_tokens <= self.max_tokens:
            return
        enough = 1 << (num_tokens - 1).bit_length()
        if self.num_slots < self.context_len:
            holder, flag, can_grow = "KV pool", "--kv-slots", True
        else:
            holder, flag, can_grow = "server", "--max-len", self.max_len_is_set
        remedy = f" or restart with {flag} {enough}" if can_grow else ""
        raise RequestTooLong(
            f"{what} is {num_tokens} tokens, the {holder} holds {self.max_tokens} ({flag}); "
            f"shorten it{remedy}"
        )
