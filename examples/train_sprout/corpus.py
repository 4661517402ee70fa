"""The corpus: every skill with its weight, as an endless seeded stream of documents."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping

from examples.train_sprout.document import Document
from examples.train_sprout.draw import Draw, is_held_out
from examples.train_sprout.skills import (
    arithmetic,
    choices,
    classify,
    drills,
    facts,
    judge,
    react,
    reading,
    records,
    skeleton,
    talk,
    thought,
    tools,
)

Skill = Callable[[Draw], Document]

SKILLS: dict[str, Skill] = {
    "geography": facts.geography,
    "small facts": facts.small_fact,
    "few-shot facts": facts.few_shot_facts,
    "sums with steps": arithmetic.sums,
    "few-shot sums": arithmetic.few_shot_sums,
    "few-shot tiny sums": arithmetic.few_shot_tiny,
    "record to JSON": records.record_to_json,
    "JSON with given keys": records.record_with_given_keys,
    "filled form": records.filled_form,
    "few-shot JSON": records.few_shot_json,
    "sentiment": classify.sentiment,
    "topic": classify.topic,
    "few-shot labels": classify.few_shot_labels,
    "small talk": talk.small_talk_alone,
    "conversation": talk.conversation,
    "memory": talk.memory,
    "role play": talk.role_play,
    "tool call": tools.tool_call,
    "tool answer": tools.tool_answer,
    "ReAct": react.agent,
    "ReAct in chat": react.agent_in_chat,
    "passages": reading.answer_from_passages,
    "questions in turn": reading.questions_in_turn,
    "judge": judge.judged,
    "skeleton": skeleton.skeleton,
    "expansion": skeleton.expansion,
    "tree of thought": thought.puzzle,
    "repeat": drills.repeat,
    "look-up": drills.look_up,
    "JSON list": drills.as_list,
    "line again": drills.again,
    "yes or no": choices.yes_or_no,
    "multiple choice": choices.multiple_choice,
    "country card": choices.country_card,
    "many passages": reading.answer_from_many_passages,
    "long few-shot": facts.long_few_shot,
    "sum table": arithmetic.table,
}

AFTER_COPYING = (
    "yes or no",
    "multiple choice",
    "country card",
    "many passages",
    "long few-shot",
    "sum table",
)

# Copying is what takes longest to appear, so its drills come first and often.
EARLY: dict[str, float] = {
    **dict.fromkeys([name for name in SKILLS if name not in AFTER_COPYING], 1.0),
    "record to JSON": 4.0,
    "JSON with given keys": 3.0,
    "filled form": 3.0,
    "look-up": 6.0,
    "repeat": 3.0,
    "line again": 6.0,
    "JSON list": 3.0,
    "passages": 4.0,
    "sums with steps": 3.0,
    "tool call": 1.5,
    "few-shot JSON": 1.0,
}
LATE: dict[str, float] = {
    **dict.fromkeys(SKILLS, 1.0),
    "JSON list": 0.6,
    "look-up": 0.7,
    "questions in turn": 0.7,
    "geography": 5.0,
    "small facts": 2.0,
    "few-shot facts": 1.5,
    "sums with steps": 8.0,
    "few-shot sums": 0.5,
    "few-shot tiny sums": 1.5,
    "record to JSON": 8.0,
    "JSON with given keys": 2.0,
    "filled form": 1.2,
    "few-shot JSON": 1.5,
    "sentiment": 2.5,
    "topic": 2.5,
    "few-shot labels": 1.5,
    "tool call": 2.5,
    "passages": 5.0,
    "judge": 2.0,
    "skeleton": 1.5,
    "expansion": 1.5,
    "tree of thought": 1.5,
    "country card": 2.0,
    "yes or no": 0.6,
    "multiple choice": 0.4,
    "repeat": 0.3,
    "line again": 0.2,
    "role play": 0.4,
    "memory": 0.7,
    "many passages": 0.2,
    "long few-shot": 0.1,
}
# What is known by then only has to be kept; sums and records take the longest.
LAST: dict[str, float] = {
    **LATE,
    "geography": 3.0,
    "small facts": 1.0,
    "few-shot facts": 1.0,
    "sentiment": 1.0,
    "topic": 1.0,
    "few-shot labels": 0.7,
    "small talk": 0.6,
    "conversation": 0.8,
    "memory": 0.6,
    "role play": 0.3,
    "tool call": 1.5,
    "ReAct": 0.8,
    "ReAct in chat": 0.8,
    "sum table": 5.0,
    "sums with steps": 9.0,
    "record to JSON": 13.0,
    "filled form": 2.0,
    "passages": 6.0,
    "look-up": 2.5,
    "repeat": 1.0,
}


def exercise(skill: Skill, rng: random.Random, *, held_out: bool) -> Document:
    """A document of one skill whose prompt lies on the given side of the split.

    Both its values (see `Draw`) and the prompt as a whole are split, so that no held-out
    prompt is ever trained on, not even one without anything to copy.
    """
    while True:
        document = skill(Draw(rng, held_out=held_out))
        if is_held_out(document.prompt) == held_out:
            return document


def stream(seed: int | str, weights: Mapping[str, float]) -> Iterator[Document]:
    """Training documents without end, the same for the same seed and weights."""
    rng = random.Random(seed)
    names, shares = list(weights), list(weights.values())
    while True:
        (name,) = rng.choices(names, shares)
        yield exercise(SKILLS[name], rng, held_out=False)


def held_out(name: str, count: int, seed: int = 0) -> list[Document]:
    """Different held-out documents of one skill; fewer where the skill has fewer prompts."""
    rng = random.Random(f"{seed} {name}")
    found: dict[str, Document] = {}
    for _ in range(20 * count):
        document = exercise(SKILLS[name], rng, held_out=True)
        found.setdefault(document.prompt, document)
        if len(found) == count:
            break
    return list(found.values())
