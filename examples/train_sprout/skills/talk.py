"""Short conversation: greetings, who are you, thanks, and what was said in an earlier turn."""

from __future__ import annotations

from collections.abc import Callable

from examples.train_sprout.document import Document, Turn
from examples.train_sprout.draw import Draw
from examples.train_sprout.forms import with_system
from examples.train_sprout.skills.facts import GEOGRAPHY, SMALL_FACTS, pair
from examples.train_sprout.words import COLOURS, JOBS, PETS

SMALL_TALK = tuple(
    (tuple(asked.strip().split(" / ")), answer.strip())
    for asked, _, answer in (
        line.partition("|")
        for line in """
Hello / Hello! / Hi / Hi! / Hey / Hey! / Hi there / Hello there! / Good day|Hello! How can I help you?
Good morning / Good morning!|Good morning! How can I help you?
Good evening / Good evening!|Good evening! How can I help you?
How are you? / How are you doing? / How is it going? / How are you today?|I am well, thank you. How can I help you?
Who are you? / What are you? / What is your name? / What's your name? / Introduce yourself. / Tell me about yourself.|I am sprout, a small language model.
How big are you? / How many parameters do you have?|I have about five million parameters.
What can you do? / How can you help me? / What are you good at?|I can answer small questions, add numbers, read texts, write JSON and call tools.
Are you a human? / Are you a person? / Are you real?|No, I am a small language model.
Thanks / Thanks! / Thank you / Thank you! / Thank you very much. / Thanks a lot!|You are welcome!
Bye / Goodbye / Goodbye! / See you / See you later! / Good night|Goodbye! Have a nice day.
Tell me a joke. / Do you know a joke? / Make me laugh.|Why did the tree go to school? To grow its roots.
Can you help me? / I need help. / Help me, please.|Of course. What do you need?
Yes / Yes. / Ok / Okay / Good / Great!|Good. What is next?
""".strip().splitlines()  # noqa: E501
    )
)

LIKES: tuple[tuple[str, str, str, Callable[[Draw], str]], ...] = (
    (
        "My favourite colour is {}.",
        "What is my favourite colour?",
        "Your favourite colour is {}.",
        lambda d: d.of(COLOURS),
    ),
    ("I live in {}.", "Where do I live?", "You live in {}.", Draw.city),
    (
        "I am {} years old.",
        "How old am I?",
        "You are {} years old.",
        lambda d: str(d.between(5, 99)),
    ),
    ("I work as a {}.", "What is my job?", "You work as a {}.", lambda d: d.of(JOBS)),
    ("My pet is a {}.", "What is my pet?", "Your pet is a {}.", lambda d: d.of(PETS)),
    ("My dog is called {}.", "What is my dog called?", "Your dog is called {}.", Draw.proper),
    ("My e-mail is {}.", "What is my e-mail?", "Your e-mail is {}.", Draw.email),
    (
        "My number is {}.",
        "What is my number?",
        "Your number is {}.",
        lambda d: str(d.number(1, 99_999)),
    ),
    ("The password is {}.", "What is the password?", "The password is {}.", Draw.word),
)
NAME_TOLD = ("My name is {}.", "I am {}.", "Hi! My name is {}.")
NAME_ASKED = ("What is my name?", "Do you know my name?")


def small_talk(draw: Draw) -> list[Turn]:
    """One exchange of pleasantries."""
    asked, answer = draw.of(SMALL_TALK)
    return [Turn("user", draw.of(asked)), Turn("assistant", answer)]


def question(draw: Draw) -> list[Turn]:
    """One small question and its answer."""
    if draw.chance(0.4):
        asked, answer = draw.of(SMALL_FACTS)
    else:
        asked, answer = pair(draw, draw.of(GEOGRAPHY))
    return [Turn("user", asked), Turn("assistant", answer)]


def small_talk_alone(draw: Draw) -> Document:
    """A greeting or a question about the model, rarely after another one."""
    before = small_talk(draw) if draw.chance(0.3) else []
    return with_system(draw, *before, *small_talk(draw))


def memory(draw: Draw) -> Document:
    """Something is told, other turns may come between, then it is asked for."""
    told, asked = [], []
    if draw.chance(0.7):
        name = draw.name() if draw.chance(0.4) else draw.split(draw.first_name)
        first = name.split()[0]
        told.append((draw.of(NAME_TOLD).format(name), f"Nice to meet you, {first}!"))
        asked.append((draw.of(NAME_ASKED), f"Your name is {name}."))
    for say, ask_for, answer, make in draw.some(LIKES, draw.between(0 if told else 1, 2)):
        value = make(draw)
        told.append((say.format(value), "Good to know."))
        asked.append((ask_for, answer.format(value)))
    turns = [t for say, reply in told for t in (Turn("user", say), Turn("assistant", reply))]
    for _ in range(draw.between(0, 2)):
        turns += small_talk(draw) if draw.chance(0.4) else question(draw)
    for ask_for, answer in draw.some(asked, draw.between(1, len(asked))):
        turns += [Turn("user", ask_for), Turn("assistant", answer)]
    return with_system(draw, *turns)


def conversation(draw: Draw) -> Document:
    """Two to four small exchanges after one another."""
    turns = small_talk(draw) if draw.chance(0.5) else []
    for _ in range(draw.between(1, 3)):
        turns += question(draw)
    if draw.chance(0.2):
        turns += small_talk(draw)
    return with_system(draw, *turns)
