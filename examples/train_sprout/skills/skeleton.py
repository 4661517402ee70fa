"""Skeleton of thought: list short tips on a topic, then expand one of them."""

from __future__ import annotations

from examples.train_sprout.document import Document, Turn
from examples.train_sprout.draw import Draw
from examples.train_sprout.forms import with_system

TIPS: dict[str, tuple[tuple[str, str], ...]] = {
    topic: tuple(
        (tip.strip(), text.strip()) for tip, _, text in (row.partition(":") for row in rows)
    )
    for topic, *rows in (
        block.splitlines()
        for block in """
sleep better
Keep a schedule: Go to bed and get up at the same time every day, so your body knows when to rest.
Dim the lights: Bright light keeps you awake, so make the room dark an hour before bed.
Avoid late coffee: Coffee works for many hours, so drink your last cup at noon.
Cool the room: A cool room helps you to fall asleep fast and to stay asleep.

learn a language
Practise every day: Ten minutes a day are worth more than two hours once a week.
Learn common words: A few hundred words make up most of what people say.
Speak from the start: Mistakes are part of learning, so talk to people early.
Listen a lot: Songs and films train your ear for the sound of the language.

save money
Write a budget: Write down what you earn and spend, and you see where the money goes.
Cook at home: A meal at home costs a third of a meal in a restaurant.
Compare prices: The same thing is often cheaper in another shop.
Pay debts first: Debts grow with interest, so pay them before you buy new things.

stay healthy
Walk every day: Half an hour of walking is good for your heart and your mood.
Eat more plants: Fruit and vegetables give you fibre and vitamins.
Drink water: Your body needs about two litres of water a day.
Sleep enough: Seven to eight hours of sleep keep your mind clear.

write clearly
Use short words: Short words are read faster and leave less room for doubt.
Cut what you can: If a sentence works without a word, leave the word out.
Say one thing: A sentence with one thought is easier to follow.
Read it aloud: Your ear finds the mistakes that your eye does not see.

study well
Make a plan: Decide in the morning what you want to know in the evening.
Take breaks: After half an hour of work, five minutes of rest bring you back.
Test yourself: Closing the book and answering questions shows what you know.
Teach a friend: Who explains a thing to others understands it better.

care for a dog
Walk it twice: A dog needs to run in the morning and in the evening.
Feed it well: Good food at fixed times keeps a dog healthy.
Train with praise: A dog learns faster from praise than from anger.
See the vet: One visit a year finds problems early.

travel light
Pack one bag: With one bag you move fast and lose nothing.
Wear layers: Layers of clothes keep you warm in any weather.
Share things: One tube of toothpaste is enough for two people.
Wash on the way: Wash a shirt in the sink and it is dry by morning.
""".strip().split("\n\n")
    )
}

LIST = "Give {} short tips on how to {}."
EXPAND = "Expand the tip: {}"


def listed(topic: str, count: int) -> str:
    """The first tips of a topic as a numbered list."""
    return "\n".join(f"{i}. {tip}" for i, (tip, _) in enumerate(TIPS[topic][:count], start=1))


def skeleton(draw: Draw) -> Document:
    """The list of tips."""
    topic, count = draw.of(tuple(TIPS)), draw.between(2, 4)
    return with_system(
        draw, Turn("user", LIST.format(count, topic)), Turn("assistant", listed(topic, count))
    )


def expansion(draw: Draw) -> Document:
    """One tip in a sentence: alone, or after its list."""
    topic, count = draw.of(tuple(TIPS)), draw.between(2, 4)
    tip, text = draw.of(TIPS[topic][:count])
    turns = [Turn("user", EXPAND.format(tip)), Turn("assistant", text)]
    if draw.chance(0.5):
        turns = [
            Turn("user", LIST.format(count, topic)),
            Turn("assistant", listed(topic, count)),
            *turns,
        ]
    return with_system(draw, *turns)
