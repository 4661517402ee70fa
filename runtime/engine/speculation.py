"""Guessing the next tokens from the text so far; the step that computes the present token checks them.

Prompt look-up (Yang et al. 2023, "Inference with Reference"): where the last tokens stood before, what followed them
then is guessed to follow again. The step samples after each guessed token, with the randomness of its place, and a
guess is kept if it is the very token that is sampled there. So a text is the same, token for token, with and without:
at any temperature, under any constraint, up to any stop.
"""

from branchwork.runtime.engine.buffer import IntBuffer

# So many tokens must have stood together before: fewer recur by chance.
NGRAM = 3

# Text further back is not looked at: a long prompt's index would take longer than a step.
MAX_LOOKBACK = 4096

# After the n-th miss in a row, 2**n steps go by without a guess, and so many at most.
MAX_PAUSE = 32


class Guesser:
    """Guesses for one slot, of at most `most` tokens; fewer, and less often, while they miss."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._length = most
        self._misses = 0
        self._pause = 0
        self._follows: dict[
            tuple[int, ...], int
        ] = {}  # where what followed these tokens last begins
        self._known = 0  # n-grams that end before this place are in `_follows`

    def guess(self, tokens: IntBuffer, room: int) -> tuple[int, ...]:
        """Up to `room` tokens that may follow; none if nothing like the end stood before."""
        if self._pause > 0:
            self._pause -= 1
            return ()
        length = len(tokens)
        self._note(tokens)
        place = self._follows.get(tokens.ids(max(0, length - NGRAM), length))
        if place is None:
            return ()
        return tokens.ids(place, min(place + min(self._length, room), length))

    def learn(self, num_guessed: int, num_kept: int) -> None:
        """So many of a guess were right."""
        if num_kept == num_guessed:
            self._length = min(self._most, 2 * self._length)
        else:
            self._length = num_kept + 1
        self._misses = 0 if num_kept else self._misses + 1
        self._pause = min(2**self._misses - 1, MAX_PAUSE)

    def _note(self, tokens: IntBuffer) -> None:
        """Enter the n-grams that something follows."""
        first = max(self._known, len(tokens) - MAX_LOOKBACK, NGRAM)
        recent = tokens.ids(first - NGRAM, len(tokens)) if first < len(tokens) else ()
        for place in range(first, len(tokens)):
            at = place - first
            self._follows[recent[at : at + NGRAM]] = place
        self._known = len(tokens)
