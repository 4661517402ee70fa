"""The corpus: every skill with its weight, as an endless seeded stream of documents."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from functools import partial

from examples.train_sprout.document import Document
from examples.train_sprout.draw import Draw, is_held_out
from examples.train_sprout.skills import (
    arithmetic,
    classify,
    drills,
    facts,
    judge,
    react,
    reading,
    records,
    several,
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
    "country card": facts.country_card,
    "sums with steps": arithmetic.sums,
    "few-shot sums": arithmetic.few_shot_sums,
    "record to JSON": records.record_to_json,
    "JSON with given keys": records.record_with_given_keys,
    "few-shot JSON": records.few_shot_json,
    "sentiment": classify.sentiment,
    "topic": classify.topic,
    "few-shot labels": classify.few_shot_labels,
    "small talk": talk.small_talk_alone,
    "conversation": talk.conversation,
    "memory": talk.memory,
    "tool call": tools.tool_call,
    "tool answer": tools.tool_answer,
    "ReAct": react.agent,
    "passages": reading.answer_from_passages,
    "judge": judge.judged,
    "skeleton": skeleton.skeleton,
    "expansion": skeleton.expansion,
    "tree of thought": thought.puzzle,
    "several tasks": several.several_tasks,
}
# What skills are made of; trained and measured as they are, and of no use by itself.
DRILLS: dict[str, Skill] = {
    "look-up": drills.look_up,
    "line again": drills.again,
    "JSON list": drills.as_list,
    "sum table": arithmetic.table,
    "judge at once": judge.judged_at_once,
    "judge by reference": judge.judged_by_reference,
    "record, any case": partial(records.record_to_json, any_case=True),
    "given keys, any case": partial(records.record_with_given_keys, any_case=True),
}
EXERCISES = {**SKILLS, **DRILLS}

# Copying is what takes longest to appear, so its drills come first and often.
EARLY: dict[str, float] = {
    "geography": 1.0,
    "small facts": 0.5,
    "few-shot facts": 2.0,
    "country card": 0.5,
    "sums with steps": 0.5,
    "few-shot sums": 0.5,
    "record, any case": 4.0,
    "given keys, any case": 3.0,
    "few-shot JSON": 0.5,
    "sentiment": 0.5,
    "topic": 0.5,
    "few-shot labels": 0.5,
    "small talk": 0.5,
    "conversation": 0.5,
    "memory": 0.5,
    "tool call": 0.5,
    "tool answer": 0.5,
    "ReAct": 0.5,
    "passages": 5.0,
    "judge at once": 0.5,
    "skeleton": 0.5,
    "expansion": 0.5,
    "tree of thought": 0.5,
    "look-up": 8.0,
    "line again": 6.0,
    "JSON list": 2.0,
    "sum table": 3.0,
}
LATE: dict[str, float] = {
    "geography": 4.0,
    "small facts": 1.0,
    "few-shot facts": 2.0,
    "country card": 1.5,
    "sums with steps": 6.0,
    "few-shot sums": 1.5,
    "record, any case": 9.0,
    "given keys, any case": 2.0,
    "few-shot JSON": 1.5,
    "sentiment": 1.5,
    "topic": 1.5,
    "few-shot labels": 1.0,
    "small talk": 0.7,
    "conversation": 0.8,
    "memory": 1.3,
    "tool call": 2.5,
    "tool answer": 1.0,
    "ReAct": 2.0,
    "passages": 8.0,
    "judge at once": 3.0,
    "skeleton": 0.7,
    "expansion": 1.2,
    "tree of thought": 2.5,
    "look-up": 2.0,
    "line again": 0.4,
    "JSON list": 0.5,
    "sum table": 1.5,
}
# By then most is known. What compares, computes or puts together takes longer.
LAST: dict[str, float] = {
    "geography": 4.0,
    "small facts": 1.2,
    "few-shot facts": 2.0,
    "country card": 2.0,
    "sums with steps": 3.5,
    "few-shot sums": 1.2,
    "record to JSON": 12.0,
    "JSON with given keys": 2.5,
    "few-shot JSON": 2.5,
    "sentiment": 1.0,
    "topic": 0.8,
    "few-shot labels": 0.6,
    "small talk": 0.8,
    "conversation": 0.8,
    "memory": 1.2,
    "tool call": 2.0,
    "tool answer": 1.5,
    "ReAct": 1.8,
    "passages": 7.0,
    "judge at once": 5.0,
    "skeleton": 0.7,
    "expansion": 2.5,
    "tree of thought": 4.0,
    "several tasks": 2.5,
    "look-up": 1.5,
    "JSON list": 1.5,
    "sum table": 2.5,
}
# Copying from long lists and comparing come last of all.
FINAL: dict[str, float] = {
    "geography": 3.0,
    "small facts": 0.8,
    "few-shot facts": 1.2,
    "country card": 1.0,
    "sums with steps": 2.0,
    "few-shot sums": 2.0,
    "record to JSON": 16.0,
    "JSON with given keys": 1.5,
    "few-shot JSON": 3.0,
    "sentiment": 0.6,
    "topic": 0.4,
    "few-shot labels": 0.4,
    "small talk": 0.8,
    "conversation": 0.6,
    "memory": 1.2,
    "tool call": 1.2,
    "tool answer": 1.0,
    "ReAct": 1.2,
    "passages": 12.0,
    "judge": 7.0,
    "skeleton": 0.4,
    "expansion": 1.2,
    "tree of thought": 4.0,
    "several tasks": 2.0,
    "look-up": 2.0,
    "JSON list": 2.0,
    "sum table": 1.0,
    "judge by reference": 8.0,
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
        yield exercise(EXERCISES[name], rng, held_out=False)


def held_out(name: str, count: int, seed: int = 0) -> list[Document]:
    """Different held-out documents of one skill; fewer where the skill has fewer prompts."""
    rng = random.Random(f"{seed} {name}")
    found: dict[str, Document] = {}
    for _ in range(20 * count):
        document = exercise(EXERCISES[name], rng, held_out=True)
        found.setdefault(document.prompt, document)
        if len(found) == count:
            break
    return list(found.values())
