"""Filling a slot by generation: from logits to tokens, text and the slot's end."""

import math
import secrets
from typing import Literal

import numpy as np

from branchwork.runtime.engine.answer import Answer, Kind, Stop
from branchwork.runtime.engine.branch import Branch
from branchwork.runtime.engine.context import Context
from branchwork.runtime.engine.forcing import LONGEST_TOKEN, closes_within, find_jump
from branchwork.runtime.engine.healing import HealedMatcher
from branchwork.runtime.engine.request import Ask, Req
from branchwork.runtime.engine.speculation import Guesser
from branchwork.runtime.grammar.interface import Grammar, MaskRow, Matcher, Outlook
from branchwork.runtime.grammar.stops import StopTable
from branchwork.runtime.plan import Place, Sample, Sampler, Score, Scored, SegmentResult
from branchwork.runtime.wire.errors import ConstraintError, InternalError, InvalidParameter
from branchwork.runtime.wire.messages import Done, Gen, Sampling, TokenLogprob, Usage

CLOSED_EARLY = "the answer was closed by its shortest way, to fit in max_tokens"

Reason = Literal["stop", "stop_string", "stop_token", "length"]


class Generation:
    """One `Gen` of a branch, as a request's task.

    It appends to the branch's own tokens: those before `_start` are the prompt, the others the answer. `_reason` is
    None until the answer is complete. Tokens [_score_from, _score_until) still need their logprobs.
    """

    def __init__(
        self,
        context: Context,
        branch: Branch,
        gen: Gen,
        grammar: Grammar | None,
        stops: tuple[StopTable, ...] = (),
    ) -> None:
        self.slot = gen.slot
        self._context = context
        self._branch = branch
        self._tokens = branch.tokens
        self._gen = gen
        self._warnings = grammar.warnings if grammar is not None else ()
        self._grammar = grammar
        self._matcher: Matcher | None = grammar.start() if grammar is not None else None
        self._length_safe = gen.length_safe and grammar is not None
        self._place: Place | None = None  # on the device, as the last step was asked for
        self._answer = Answer(context, branch.key.client, gen, stops)
        self._sampler = _sampler(gen.sampling, context)
        self._ends = () if gen.sampling.ignore_eos else context.vocabulary.eos_ids
        # Ids past the logits would be a neighbour's: nobody can sample them, so nobody need ban them.
        self._banned_early = tuple(
            token
            for token in (*self._ends, *gen.sampling.stop_token_ids)
            if 0 <= token < context.vocabulary.size
        )
        self._prompt_len = self._start = len(self._tokens)
        self._healed = b""
        self._max_tokens = 0
        self._score_from = self._score_until = 0
        self._prompt_logprobs: list[TokenLogprob] = []
        self._reason: Reason | None = None
        self._matched: str | int | None = None
        self._begun_s = context.clock()
        self._first_token_s: float | None = None
        self._req = Req(branch.tokens, self, branch.namespace, branch.priority, branch.program)
        # From step to step nothing but place and mask changes in what is asked for.
        self._is_plain = (
            context.speculate == 0
            and gen.sampling.min_tokens == 0
            and not self._sampler.has_penalties
        )
        self._may_have_place = (
            context.num_machines > 0
            and context.speculate == 0
            and grammar is not None
            and not self._sampler.banned
        )
        self._ahead: list[MaskRow | None] = []  # after each guessed token: what may follow it
        self._guesser: Guesser | None = None
        if context.speculate > 0:
            self._guesser = Guesser(context.speculate)
            self._req.guess = self._guess

    # ------------------------------------------------------------------ as an activity of the branch

    def begin(self) -> list[Req]:
        """Check that the slot can be filled and append what is decided already; returns the request, if one is needed.

        Raises RequestError.
        """
        gen, capacity = self._gen, self._context.capacity
        wanted = gen.sampling.max_tokens
        capacity.check(self._prompt_len)
        if wanted != 0:
            capacity.check(self._prompt_len + 1, "prompt with one more token")
        if gen.heal and wanted != 0:
            self._heal()
        room = capacity.max_tokens - self._start
        self._max_tokens = room if wanted is None else min(wanted, room)
        if gen.prompt_logprobs_from is not None:
            self._score_prompt(gen.prompt_logprobs_from)
        if self._max_tokens == 0:
            self._finish(
                "length"
            )  # the prompt is computed all the same, for its logprobs and the cache
            return [self._req]
        if self._length_safe:
            self._check_closing()
        self._jump()
        return [] if self._complete else [self._req]

    def ended(self, req: Req) -> list[Req]:
        """The one request is done."""
        return []

    def answer(self) -> Done:
        """The slot's good end; sends what of the text was not sent."""
        assert self._reason is not None
        answer, req, now = self._answer, self._req, self._context.clock()
        answer.send_rest()
        self._context.num_sampled += answer.num_of["sampled"]
        self._context.num_jumped += answer.num_of["jumped"]
        self._context.num_speculated += answer.num_of["speculated"]
        started = req.admitted_s if req.admitted_s is not None else now
        first = self._first_token_s if self._first_token_s is not None else now
        usage = Usage(
            prompt=self._prompt_len,
            cached=min(self._cached_len(), self._prompt_len),
            completion=answer.num_tokens,
            sampled=answer.num_of["sampled"],
            jumped=answer.num_of["jumped"],
            speculated=answer.num_of["speculated"],
            steps=req.steps,
            queue_ms=1000 * (started - self._begun_s),
            first_token_ms=1000 * (first - self._begun_s),
            total_ms=1000 * (now - self._begun_s),
        )
        return Done(
            self._gen.branch,
            self._gen.slot,
            self._reason,
            answer.text.decode("utf-8", "replace"),
            usage,
            matched=self._matched,
            prompt_logprobs=tuple(self._prompt_logprobs),
            warnings=self._warnings,
        )

    def _cached_len(self) -> int:
        """Tokens found in the cache, by whichever request of this slot looked first."""
        warming = self._branch.warming
        return (warming if warming is not None else self._req).cached_len

    # ------------------------------------------------------------------ as the request's task

    def reuse_limit(self) -> int:
        """All but the last token, whose logits are needed, and but those whose successors' logprobs are wanted."""
        limit = len(self._tokens) - 1
        return min(limit, self._score_from - 1) if self._unscored else limit

    def remaining(self) -> int:
        """What is left of `max_tokens`."""
        return 0 if self._reason is not None else self._left

    def ask(self, start: int, stop: int) -> Ask:
        """The next token when the segment reaches the end, and the logprobs that are wanted of its tokens."""
        score = self._score(start, stop) if self._unscored else None
        if stop < self._tokens.length or self._reason is not None:
            return Ask(None, score)
        mask, num_unknown = None, stop - self._tokens.length
        if self._matcher is not None:
            if self._may_have_place:
                self._place = self._find_place(self._matcher, num_unknown)
            if self._place is None:
                mask = self._matcher.mask()
        if self._is_plain:
            sampler, logprobs = self._sampler, self._gen.logprobs
            return Ask(Sample(sampler, stop, mask, (), logprobs, (), (), self._place), score)
        guessed = self._req.guessed
        if not guessed:
            return Ask(self._sample_after((), mask, num_unknown), score)
        masks = [mask, *self._ahead]
        *early, last = [
            self._sample_after(guessed[:count], masks[count]) for count in range(len(guessed) + 1)
        ]
        return Ask(last, score, guessed=tuple(early))

    def runs_ahead(self) -> bool:
        """Whether nothing that is kept here, and not on the device, decides how the next token is chosen."""
        return (
            (self._matcher is None or self._place is not None)
            and self._guesser is None
            and self._gen.logprobs is None
            and not self._sampler.has_penalties
            and not self._unscored
        )

    def take(self, start: int, stop: int, result: SegmentResult) -> bool:
        """Add the logprobs and the sampled token; True when the slot is filled."""
        if self._unscored:
            self._take_scores(result.scored, stop)
        if stop == self._tokens.length and self._reason is None:
            if result.guessed:
                self._take_guessed(result)
            else:
                self._take_sampled(result.sampled, "sampled")
        if self._unscored:
            return False
        self._answer.send()
        return self._reason is not None and (self._max_tokens > 0 or stop == len(self._tokens))

    # ------------------------------------------------------------------ the next token

    @property
    def _left(self) -> int:
        return self._max_tokens - self._answer.num_tokens

    @property
    def _unscored(self) -> bool:
        return self._score_from < self._score_until

    @property
    def _complete(self) -> bool:
        return self._reason is not None and not self._unscored

    def _sample_after(
        self, guessed: tuple[int, ...], mask: MaskRow | None, num_unknown: int = 0
    ) -> Sample:
        """How to choose what follows all tokens so far, then some guessed ones or some that are being chosen."""
        sampler, gen, answer = self._sampler, self._gen, self._answer
        num_more = len(guessed) + num_unknown
        banned: tuple[int, ...] = ()
        if answer.num_tokens + num_more < gen.sampling.min_tokens:
            banned = self._banned_early
            if mask is not None and not _leaves_some(mask, banned):
                banned = ()  # nothing else may follow
        context: tuple[int, ...] = ()
        generated: tuple[int, ...] = ()
        if sampler.has_penalties:
            context = self._tokens.ids(0, len(self._tokens)) + guessed
            generated = context[self._start :]
        position = len(self._tokens) + num_more
        return Sample(
            sampler, position, mask, banned, gen.logprobs, context, generated, self._place
        )

    def _find_place(self, matcher: Matcher, num_unknown: int) -> Place | None:
        """Where the constraint stands on the device, if that can follow it."""
        if num_unknown:  # it could in the step before: see `runs_ahead`
            assert self._place is not None
            return self._context.machines.onward(self._place)
        if self._answer.num_tokens < self._gen.sampling.min_tokens:
            return None
        assert self._grammar is not None
        return self._context.machines.place(self._grammar, matcher)

    def _take_sampled(self, scored: Scored | None, kind: Kind) -> None:
        if scored is None:
            raise ConstraintError("no token of the vocabulary may follow here")
        token, sampling = scored.token_id, self._gen.sampling
        if self._first_token_s is None:
            self._first_token_s = self._context.clock()
        if token in self._ends:
            self._finish("stop")
            return
        if token in sampling.stop_token_ids:
            if sampling.include_stop:
                self._write((token,), kind, scored)
            self._finish("stop_token", token)
            return
        outlook: Outlook | None = None
        if self._matcher is not None:
            outlook = self._follow(self._matcher, token)
            if outlook is None:
                self._close()
                return
        self._write((token,), kind, scored)
        if self._reason is not None:
            return
        if outlook is not None and outlook.must_end:
            self._finish("stop")
        elif self._left == 0:
            self._finish("length")
        elif outlook is not None and outlook.is_forced:
            self._jump()

    def _follow(self, matcher: Matcher, token: int) -> Outlook | None:
        """Advance the constraint; None if it could not be closed any more within `max_tokens` after this token."""
        if not matcher.accept(token):
            raise InternalError("the model runner chose a token that the constraint forbids")
        if isinstance(matcher, HealedMatcher) and not matcher.pending:
            self._matcher = matcher.inner
        outlook, left = matcher.outlook(), self._left - 1
        # Mostly the bound tells; only where it does not is the way to the end looked for.
        if outlook.closing_len <= left or not self._length_safe:
            return outlook
        return outlook if closes_within(matcher, left, self._context.tokenizer) else None

    def _close(self) -> None:
        """End within `max_tokens` by the shortest way from where the last token was not yet taken."""
        assert self._grammar is not None
        answer, matcher = self._answer, self._grammar.start()
        if not matcher.accept_bytes(bytes(answer.text)):
            raise InternalError("the constraint forbids the answer that it led to")
        pending = self._healed[len(self._healed) - answer.num_hidden :]
        closing = pending + matcher.closing()
        if closing:
            self._write(self._context.tokenizer.encode_bytes(closing), "jumped")
        if self._reason is None:
            # The text is whole, so it is no cut answer to its reader: clients refuse to parse those.
            self._warnings = (*self._warnings, CLOSED_EARLY)
            self._finish("stop")

    def _jump(self) -> None:
        """Append what the constraint decides from here on."""
        if self._matcher is None or not self._gen.jump_forward:
            return
        context = self._context
        jump = find_jump(self._matcher, context.tokenizer, context.sorted_tokens)
        if jump is None:
            return
        left = self._left - len(jump.token_ids)
        if left < 0:
            return
        if self._length_safe and not closes_within(jump.matcher, left, context.tokenizer):
            return  # sampled one by one, the run ends where it must
        self._matcher = jump.matcher
        self._write(jump.token_ids, "jumped")
        if self._reason is None:
            if jump.complete:
                self._finish("stop")
            elif left == 0:
                self._finish("length")

    def _write(self, token_ids: tuple[int, ...], kind: Kind, scored: Scored | None = None) -> None:
        """Append tokens of the answer, and stop where they complete a stop."""
        tokens = self._tokens
        before = tokens.length
        for token in token_ids:
            tokens.append(token)
        stop = self._answer.write(token_ids, kind)
        num_top = self._gen.logprobs
        if num_top is not None:
            if scored is not None:
                self._answer.add_logprob(self._context.logprob(scored, num_top))
            else:
                self._want_scores(before)
        if stop is not None:
            self._cut(stop)

    # ------------------------------------------------------------------ the end

    def _finish(self, reason: Reason, matched: str | int | None = None) -> None:
        self._reason = reason
        self._matched = matched

    def _cut(self, stop: Stop) -> None:
        """End at a stop: the branch keeps the tokens before it, and canonical tokens for the rest of a cut one."""
        keep = stop.end if self._gen.sampling.include_stop else stop.start
        bytes_of = self._context.bytes_of
        text = self._healed + self._answer.text
        keep_bytes = len(self._healed) + keep
        position, length = self._start, 0
        while position < len(self._tokens):
            size = len(bytes_of(self._tokens[position]))
            if length + size > keep_bytes:
                break
            length += size
            position += 1
        self._give_up_scores()
        self._req.rewind(position)
        if length < keep_bytes:
            rest = bytes(text[length:keep_bytes])
            self._tokens.extend(self._context.tokenizer.encode_bytes(rest))
        self._answer.cut(keep)
        self._finish("stop_string", stop.matched)

    # ------------------------------------------------------------------ the beginning

    def _heal(self) -> None:
        """Take the prompt's last token back; its bytes must come again, in whichever tokens."""
        if len(self._tokens) < 2:
            return
        data = self._context.bytes_of(self._tokens[-1])
        if not data:
            return
        self._tokens.truncate(len(self._tokens) - 1)
        self._start = len(self._tokens)
        self._healed = data
        self._answer.hide(len(data))
        self._matcher = HealedMatcher(data, self._matcher, self._context.sorted_tokens)

    def _check_closing(self) -> None:
        assert self._matcher is not None
        tokenizer = self._context.tokenizer
        if not closes_within(self._matcher, self._max_tokens, tokenizer):
            size = self._matcher.outlook().closing_len
            shortest = f"{size} bytes"
            if size <= self._max_tokens * LONGEST_TOKEN:
                shortest = f"{len(tokenizer.encode_bytes(self._matcher.closing()))} tokens"
            raise ConstraintError(
                f"the shortest answer under the constraint takes {shortest}, "
                f"max_tokens is {self._max_tokens}",
                "max_tokens",
            )

    # ------------------------------------------------------------------ guesses

    def _guess(self, room: int) -> tuple[int, ...]:
        """Tokens that may follow, as far as the constraint allows them; the step will tell which are right."""
        assert self._guesser is not None
        if self._unscored or self._reason is not None or self._answer.num_hidden:
            return ()
        # The step samples one token more than are guessed.
        guessed = self._guesser.guess(self._tokens, min(room, self._left - 1))
        if self._matcher is None:
            self._ahead = [None] * len(guessed)
            return guessed
        self._ahead, matcher = [], self._matcher.copy()
        for token in guessed:
            if token in self._ends or not matcher.accept(token):
                break
            if matcher.outlook().must_end:
                break
            self._ahead.append(matcher.mask())
        return guessed[: len(self._ahead)]

    def _take_guessed(self, result: SegmentResult) -> None:
        """Take what was sampled as long as it is what was guessed, and then the first other token."""
        assert self._guesser is not None
        guessed, length = self._req.guessed, len(self._tokens)
        num_kept = 0
        for place, scored in enumerate((*result.guessed, result.sampled)):
            is_right = (
                scored is not None and place < len(guessed) and scored.token_id == guessed[place]
            )
            num_kept += is_right
            self._take_sampled(scored, "speculated" if is_right else "sampled")
            # What was jumped over, or cut, was not guessed.
            has_moved = len(self._tokens) != length + place + 1
            if not is_right or has_moved or self._reason is not None:
                break
        self._guesser.learn(len(guessed), num_kept)

    # ------------------------------------------------------------------ logprobs

    def _score_prompt(self, start: int) -> None:
        """Ask for the logprobs of the prompt's tokens from `start` on; the first token of all has none."""
        if start == 0 and self._start > 0:
            first = self._tokens[0]
            token = TokenLogprob(first, self._context.bytes_of(first), None)
            self._prompt_logprobs.append(token)
        self._score_from, self._score_until = max(1, start), self._start

    def _score(self, start: int, stop: int) -> Score | None:
        """The wanted logprobs that a segment of positions [start, stop) can give."""
        assert start < self._score_from
        last = min(stop, self._score_until - 1)
        if self._score_from > last:
            return None
        targets = self._tokens.ids(self._score_from, last + 1)
        return Score(self._score_from - 1 - start, targets, self._gen.logprobs or 0)

    def _take_scores(self, scored: tuple[Scored, ...], stop: int) -> None:
        num_top = self._gen.logprobs or 0
        for position, one in enumerate(scored, self._score_from):
            logprob = self._context.logprob(one, num_top)
            if position < self._start:
                self._prompt_logprobs.append(logprob)
            else:
                self._answer.add_logprob(logprob)
        self._score_from = max(self._score_from, stop + 1)

    def _want_scores(self, start: int) -> None:
        """Jumped tokens from `start` on: their logprobs come with the pass that computes them."""
        if start > 0 and self._req.computed == start:
            # The pass that could have scored the first one is over: it ended before this token was decided.
            self._add_unscored(start)
            start += 1
        if not self._unscored:
            self._score_from = start
        self._score_until = len(self._tokens)

    def _add_unscored(self, position: int) -> None:
        token = self._tokens[position]
        self._answer.add_logprob(TokenLogprob(token, self._context.bytes_of(token), None))

    def _give_up_scores(self) -> None:
        """A stop cut a jumped run: its tokens, which no step will score as they stood, go without logprobs."""
        for position in range(max(self._start, self._score_from), self._score_until):
            self._add_unscored(position)
        self._score_until = min(self._score_until, self._start)


def _leaves_some(mask: MaskRow, banned: tuple[int, ...]) -> bool:
    """Whether a mask allows anything but the banned tokens."""
    left = mask.view(np.uint32).copy()
    for token in banned:
        left[token >> 5] &= np.uint32(~(1 << (token & 31)) & 0xFFFFFFFF)
    return bool(left.any())


def _sampler(sampling: Sampling, context: Context) -> Sampler:
    """The sampler of a request; without a seed it gets a fresh one. Raises InvalidParameter."""
    size = context.vocabulary.size
    for token, bias in sampling.logit_bias:
        if not 0 <= token < size or math.isnan(bias):
            raise InvalidParameter(
                f"logit_bias names token {token}, the vocabulary has {size}", "logit_bias"
            )
    return Sampler(
        sampling.temperature,
        sampling.top_p,
        sampling.top_k,
        sampling.min_p,
        sampling.frequency_penalty,
        sampling.presence_penalty,
        sampling.repetition_penalty,
        sampling.seed if sampling.seed is not None else secrets.randbits(63),
        sampling.logit_bias,
        context.vocabulary.eos_ids if sampling.ignore_eos else (),
    )
