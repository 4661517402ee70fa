"""Skeleton of thought: list short tips on a topic, then expand one of them."""

from __future__ import annotations

from examples.train_sprout.document import Document, Turn, plain
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

cook rice
Rinse the rice: Cold water washes off the starch that makes rice sticky.
Measure the water: Take two cups of water for one cup of rice.
Keep the lid on: The steam does the cooking, so do not lift the lid.
Let it rest: Ten minutes off the heat make the grains loose.

grow tomatoes
Give them sun: Tomatoes need at least six hours of sun a day.
Water the roots: Wet leaves get sick, so pour the water on the soil.
Use a stake: A stake holds the plant up when the fruit gets heavy.
Feed the soil: Compost gives the plants what they need to grow.

give a talk
Know your point: Say in one sentence what people should remember.
Practise aloud: Three runs aloud make you calm and show you the time.
Look at people: Looking at the listeners keeps them with you.
End on time: A talk that ends early is better than one that ends late.

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

find a job
Update your resume: One page that shows your best work is enough.
Ask your friends: Many jobs are found through people you know.
Prepare questions: Good questions show that you care about the work.
Follow up: A short note of thanks keeps you in mind.
""".strip().split("\n\n")
    )
}

COUNTS = {2: "two", 3: "three", 4: "four"}
LIST = (
    "Give {n} short tips on how to {topic}.",
    "List {n} tips to {topic}.",
    "How can I {topic}? Give {n} short tips.",
    "Write {n} tips on how to {topic}.",
    "Give me {n} tips for how to {topic}.",
)
EXPAND = (
    "Expand the tip: {tip}",
    "Expand this tip in one sentence: {tip}",
    "Write one sentence about the tip: {tip}",
    "Explain the tip: {tip}",
    "Tip: {tip}\nExpand it in one sentence.",
)


def listed(topic: str, count: int) -> str:
    """The first tips of a topic as a numbered list."""
    return "\n".join(f"{i}. {tip}" for i, (tip, _) in enumerate(TIPS[topic][:count], start=1))


def list_question(draw: Draw, topic: str, count: int) -> str:
    """One way to ask for the list."""
    return draw.of(LIST).format(n=draw.of((str(count), COUNTS[count])), topic=topic)


def skeleton(draw: Draw) -> Document:
    """The list of tips."""
    topic, count = draw.of(tuple(TIPS)), draw.between(2, 4)
    question = list_question(draw, topic, count)
    if draw.chance(0.6):
        return with_system(draw, Turn("user", question), Turn("assistant", listed(topic, count)))
    tips = listed(topic, count).removeprefix("1.") + "\n"
    opening = draw.of((f"{question}\n1.", f"Q: {question}\nA:\n1.", f"{question}\nTips:\n1."))
    return plain(opening, tips, stop="")


def expansion(draw: Draw) -> Document:
    """One tip in a sentence: alone, after its list, or by its number."""
    topic, count = draw.of(tuple(TIPS)), draw.between(2, 4)
    number = draw.between(1, count)
    tip, text = TIPS[topic][number - 1]
    expand = draw.of(EXPAND).format(tip=tip)
    form = draw.rng.random()
    if form < 0.35:
        return with_system(draw, Turn("user", expand), Turn("assistant", text))
    if form < 0.55:
        lead = draw.of((f"How to {topic}.\n", ""))
        return plain(
            f"{lead}{expand}\n{draw.of(('Answer:', 'Sentence:', ''))}".rstrip(),
            f" {text}\n" if not expand.endswith("\n") else f"{text}\n",
        )
    asked = draw.of((expand, f"Expand tip {number}.", f"Expand tip {number} in one sentence."))
    return with_system(
        draw,
        Turn("user", list_question(draw, topic, count)),
        Turn("assistant", listed(topic, count)),
        Turn("user", asked),
        Turn("assistant", text),
    )
