"""How much of prompts a step may compute while others wait for their next token.

A step that holds part of a prompt takes longer, and all who decode in it wait for it. So the part is chosen by time:
decoding steps may become longer by a share of what they take, and by more where many wait for their first token; and
what a step of so many streams takes, and what a prompt's token adds to it, is measured as the steps go by, on this
machine, with this model, under this load (chunked prefill as in Agrawal et al. 2024, "Sarathi-Serve", section 4, whose
token budget is profiled beforehand).
"""

from typing import Literal

Profile = Literal["balanced", "latency", "throughput"]

# By what share of itself a decoding step may become longer: twice as long is what a reader is to notice at most, and
# the longest of a hundred steps takes some more than what is aimed at.
STRETCH = {"balanced": 0.8, "latency": 0.4}

# A step of this length keeps nobody waiting who reads: 20 tokens a second. Where as many wait for their first token as
# for their next, "balanced" lets steps become so long; where they are fewer, to the same part of it.
COMFORT_S = 0.05

# So many steps with prompts, and then one without: it tells what decoding has come to cost by itself. Were that taken
# for less than it is, prompts would seem dear, get fewer tokens a step, and seem the dearer for it.
LOOK_AGAIN = 16

# A prompt makes some progress in all other steps; and fewer tokens are too few to tell what one costs.
MIN_TOKENS = 8

# Weight of the newest step in what is remembered: a slow one alone changes little.
NEWEST = 0.2


class Pace:
    """Learns what steps cost, and says how many tokens of prompts the next one may hold."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._decode_s: dict[int, float] = {}  # a step of nothing but decoding, by `_size`
        self._token_s: float | None = None  # a prompt's token more
        self._num_mixed = 0  # steps with prompts since one without

    def prompt_tokens(self, num_decoding: int, num_prompts: int) -> float:
        """Tokens of prompts that a step may compute in all, beside `num_decoding` requests, when `num_prompts` wait.

        Without limit where nobody would be kept waiting, and until something has been measured. 0 once in so many
        steps: see `LOOK_AGAIN`.
        """
        decode_s = self._decoding_s(num_decoding)
        if decode_s is None or self._token_s is None or self._profile == "throughput":
            return float("inf")
        if self._num_mixed >= LOOK_AGAIN:
            self._num_mixed = 0  # at once: whether that step comes is not known here
            return 0.0
        extra_s = STRETCH[self._profile] * decode_s
        if self._profile == "balanced":
            waiting = num_prompts / num_decoding
            extra_s *= max(1.0, waiting)
            extra_s = max(extra_s, min(1.0, waiting) * COMFORT_S - decode_s)
        return max(MIN_TOKENS, extra_s / self._token_s)

    def took(self, seconds: float, num_decoding: int, num_prompt_tokens: int) -> None:
        """A step is done that held so much."""
        self._num_mixed = self._num_mixed + 1 if num_prompt_tokens else 0
        if seconds <= 0.0:  # a clock that stands still tells nothing
            return
        if num_prompt_tokens == 0:
            size = _size(num_decoding)
            self._decode_s[size] = _mixed(self._decode_s.get(size), seconds)
        elif num_prompt_tokens >= MIN_TOKENS:
            decode_s = self._decoding_s(num_decoding) or 0.0
            # Where the rest of the step seems to be all of it, a token is still not free.
            extra_s = max(seconds - decode_s, 0.1 * seconds)
            self._token_s = _mixed(self._token_s, extra_s / num_prompt_tokens)

    def _decoding_s(self, num_decoding: int) -> float | None:
        """What a step takes in which so many decode, or as near a number as is known; None where nobody does."""
        if num_decoding == 0 or not self._decode_s:
            return None
        size = _size(num_decoding)
        known = self._decode_s.get(size)
        if known is not None:
            return known
        return self._decode_s[min(self._decode_s, key=lambda other: abs(other - size))]


def _size(num_decoding: int) -> int:
    """Steps are alike whose numbers of streams are alike to a power of two."""
    return num_decoding.bit_length()


def _mixed(before: float | None, new: float) -> float:
    """What was known and the new value, by weight."""
    return new if before is None else before + NEWEST * (new - before)
