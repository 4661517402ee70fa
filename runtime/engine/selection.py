"""Filling a slot by choosing: all choices are scored over the shared prefix, the best is appended.

A choice is tokenised together with the prompt's last token (healing), and that token counts in its score only where
it changed, as in SGLang (python/sglang/lang/backend/runtime_endpoint.py, `select`).
"""

from branchwork.runtime.engine.branch import Branch
from branchwork.runtime.engine.buffer import IntBuffer
from branchwork.runtime.engine.choices import METHODS, Choice
from branchwork.runtime.engine.context import Context
from branchwork.runtime.engine.request import Ask, Req
from branchwork.runtime.plan import Score, Scored, SegmentResult
from branchwork.runtime.wire.errors import InvalidParameter
from branchwork.runtime.wire.messages import ChoiceScore, Done, Select, TokenLogprob, Usage

# So many choices are in the scheduler at once: enough for a full batch, and bounded memory for any number.
MAX_IN_FLIGHT = 64


class Scoring:
    """A request's task: the logprobs of `targets`, which stand at positions `first` … of the tokens.

    The last target's own K/V is not needed, so it is not among the request's tokens.
    """

    def __init__(self, first: int, targets: tuple[int, ...]) -> None:
        self.first = first
        self.targets = targets
        self.scored: list[Scored] = []

    def reuse_limit(self) -> int:
        """The token before the first target must be computed: its logits are needed."""
        return self.first - 1 + len(self.scored)

    def remaining(self) -> int:
        """Nothing is added."""
        return 0

    def ask(self, start: int, stop: int) -> Ask:
        """The targets whose predecessors are in the segment."""
        done = len(self.scored)
        targets = self.targets[done : max(done, stop + 1 - self.first)]
        if not targets:
            return Ask()
        return Ask(score=Score(self.first + done - 1 - start, targets))

    def runs_ahead(self) -> bool:
        """Which targets are next is known when the last ones have their logprobs."""
        return False

    def take(self, start: int, stop: int, result: SegmentResult) -> bool:
        """Collect; done when every target has its logprob."""
        self.scored.extend(result.scored)
        return len(self.scored) == len(self.targets)


class Selection:
    """One `Select` of a branch, as an activity of many requests."""

    def __init__(self, context: Context, branch: Branch, select: Select) -> None:
        self.slot = select.slot
        self._context = context
        self._branch = branch
        self._select = select
        self._prompt_len = len(branch.tokens)
        self._choices = [self._choice(text) for text in select.choices]
        self._queue = self._plan()[::-1]
        self._takers: dict[Req, list[TokenLogprob]] = {}
        self._begun_s = context.clock()
        self._cached_len: int | None = None
        self._steps = 0

    # ------------------------------------------------------------------ as an activity of the branch

    def begin(self) -> list[Req]:
        """The first requests. Raises RequestTooLong, InvalidParameter."""
        if not self._choices:
            raise InvalidParameter("a select needs at least one choice", "choices")
        longest = max(choice.keep + len(choice.token_ids) for choice in self._choices)
        self._context.capacity.check(longest, "prompt with its longest choice")
        return self._next(MAX_IN_FLIGHT)

    def ended(self, req: Req) -> list[Req]:
        """Book a choice's logprobs; another takes its place."""
        task = req.task
        assert isinstance(task, Scoring)
        self._takers.pop(req).extend(self._context.logprob(one, 0) for one in task.scored)
        if self._cached_len is None:
            self._cached_len = req.cached_len
        self._steps += req.steps
        return self._next(1)

    def answer(self) -> Done:
        """The scores; the winner's tokens are on the branch then."""
        scores, best = METHODS[self._select.method](self._choices)
        text = ""
        if self._select.method != "none":
            winner = self._choices[best]
            text = winner.text
            self._branch.tokens.truncate(winner.keep)
            self._branch.tokens.extend(winner.token_ids)
        now = self._context.clock()
        usage = Usage(
            prompt=self._prompt_len,
            cached=min(self._cached_len or 0, self._prompt_len),
            steps=self._steps,
            total_ms=1000 * (now - self._begun_s),
        )
        return Done(
            self._select.branch,
            self._select.slot,
            "selected",
            text,
            usage,
            scores=tuple(
                ChoiceScore(
                    choice.text,
                    score,
                    choice.logprob,
                    tuple(choice.logprobs),
                    tuple(choice.unconditional),
                )
                for choice, score in zip(self._choices, scores, strict=True)
            ),
        )

    # ------------------------------------------------------------------ the requests

    def _choice(self, text: str) -> Choice:
        """Tokenise a choice across the boundary. Raises InvalidParameter for an empty one."""
        if not text:
            raise InvalidParameter("a choice is empty", "choices")
        tokens, encode = self._branch.tokens, self._context.tokenizer.encode_bytes
        data = text.encode()
        last = tokens[-1]
        healed = self._context.bytes_of(last)
        if not healed or len(tokens) < 2:
            token_ids = encode(data)
            return Choice(text, len(tokens), token_ids)
        token_ids = encode(healed + data)
        if token_ids[0] == last:  # the boundary holds: the last token is not part of the choice
            return Choice(text, len(tokens), token_ids[1:])
        return Choice(text, len(tokens) - 1, token_ids)

    def _plan(self) -> list[tuple[Choice, bool]]:
        """What is to be scored: each choice after the branch, and if the method asks for it, each by itself."""
        work = [(choice, True) for choice in self._choices]
        if self._select.method == "unconditional_likelihood_normalized":
            for choice in self._choices:
                first = choice.token_ids[0]
                data = self._context.bytes_of(first)
                choice.unconditional.append(TokenLogprob(first, data, None))
            work += [(choice, False) for choice in self._choices if len(choice.token_ids) > 1]
        return work

    def _next(self, count: int) -> list[Req]:
        """The next requests, made when there is room for them."""
        reqs: list[Req] = []
        while self._queue and len(reqs) < count:
            choice, conditional = self._queue.pop()
            if conditional:
                tokens = IntBuffer(self._branch.tokens.view(0, choice.keep))
                tokens.extend(choice.token_ids[:-1])
                req = self._request(tokens, Scoring(choice.keep, choice.token_ids))
                self._takers[req] = choice.logprobs
            else:
                tokens = IntBuffer(choice.token_ids[:-1])
                req = self._request(tokens, Scoring(1, choice.token_ids[1:]))
                self._takers[req] = choice.unconditional
            reqs.append(req)
        return reqs

    def _request(self, tokens: IntBuffer, task: Scoring) -> Req:
        branch = self._branch
        return Req(tokens, task, branch.namespace, branch.priority, branch.program)
