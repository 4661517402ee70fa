"""Sentiment and topic of a sentence, free or as a choice of given labels."""

# ruff: noqa: SIM905  (a list of words reads better as text)

from __future__ import annotations

from examples.train_sprout.document import Document, Piece, Turn, plain
from examples.train_sprout.draw import Draw
from examples.train_sprout.forms import with_system

GOOD = tuple(
    """wonderful great excellent fantastic brilliant lovely superb delightful amazing perfect beautiful
charming fun impressive delicious outstanding pleasant marvellous good enjoyable kind""".split()
)
BAD = tuple(
    """terrible awful horrible boring bad dreadful poor disappointing ugly dull disgusting annoying
useless broken painful sad weak rude lousy miserable""".split()
)
GOOD_VERBS = (
    "loved",
    "enjoyed",
    "adored",
    "liked",
    "recommend",
    "was delighted by",
    "was impressed by",
)
BAD_VERBS = (
    "hated",
    "disliked",
    "regret",
    "could not stand",
    "was bored by",
    "was let down by",
    "want my money back for",
)
THINGS = tuple(
    """film movie book meal food service hotel room play song concert phone camera game show trip staff
story acting museum restaurant coffee pizza product soup""".split()
)
GOOD_PHRASES = (
    "I would come again.",
    "It made my day.",
    "Five stars.",
    "Best I have ever had.",
    "I am so happy.",
    "Worth every cent.",
    "Everyone smiled.",
    "Thank you so much!",
    "I can only recommend it.",
    "What a joy!",
)
BAD_PHRASES = (
    "Never again.",
    "It ruined my day.",
    "One star.",
    "Worst I have ever had.",
    "I am so angry.",
    "A waste of money.",
    "Everyone left early.",
    "I want a refund.",
    "Stay away from it.",
    "What a shame!",
)

TOPICS: dict[str, tuple[str, ...]] = {
    "sports": (
        "The {} won the match",
        "The {} scored a late goal",
        "The striker signed with the {}",
        "The runner broke the record",
        "The coach praised the {}",
        "The tennis final lasted five sets",
        "Fans cheered as the {} took the cup",
        "The swimmer won a gold medal",
    ),
    "politics": (
        "The parliament passed the law",
        "The president met the minister",
        "Voters chose a new mayor",
        "The senate debated the {} bill",
        "The election ended in a tie",
        "The government plans a reform",
        "The party of {} lost its majority",
        "The minister of {} resigned",
    ),
    "science": (
        "Researchers found a new planet",
        "The telescope saw a distant galaxy",
        "Physicists measured the particle",
        "A study explains how cells grow",
        "Chemists made a new molecule",
        "Biologists described the {} beetle",
        "The experiment confirmed the theory",
        "Scientists of {} studied the fossil",
    ),
    "business": (
        "The company raised its profit",
        "Shares of {} fell sharply",
        "The bank cut interest rates",
        "The merger with {} was approved",
        "Investors bought the stock",
        "The firm {} hired a new manager",
        "Sales rose in the last quarter",
        "The market closed higher",
    ),
    "technology": (
        "The new phone has a faster chip",
        "The software update fixes a bug",
        "Developers released the {} app",
        "The laptop has a better screen",
        "Hackers attacked the server of {}",
        "The robot learned to walk",
        "The browser {} blocks trackers",
        "Engineers built a smaller battery",
    ),
    "food": (
        "The chef baked fresh bread",
        "Add salt and butter to the soup",
        "The recipe needs two eggs",
        "The cake from {} was sweet",
        "Grill the fish with lemon",
        "The restaurant {} serves noodles",
        "Stir the sauce until it is thick",
        "The cheese goes well with wine",
    ),
    "travel": (
        "The flight to {} was delayed",
        "Tourists visit the old town of {}",
        "We booked a hotel by the beach",
        "The train to {} leaves at noon",
        "Pack your passport and a map",
        "The guide showed us the island of {}",
        "The cruise stops in {}",
        "Our holiday in {} was sunny",
    ),
    "music": (
        "The band {} plays a new song",
        "The orchestra tuned its violins",
        "The singer released an album",
        "The concert of {} was sold out",
        "The choir sang a quiet hymn",
        "The drummer joined {}",
        "The guitar solo was long",
        "The pianist played a sonata",
    ),
    "health": (
        "The doctor advised more sleep",
        "The vaccine protects against flu",
        "Nurses at {} care for the patients",
        "The hospital of {} opened a ward",
        "Exercise lowers blood pressure",
        "The patient takes a pill each day",
        "A cold causes a sore throat",
        "The dentist checked the teeth",
    ),
    "weather": (
        "Heavy rain is expected in {}",
        "The storm brings strong wind",
        "It will be sunny and warm",
        "Snow fell in {} last night",
        "The fog clears by noon",
        "Temperatures in {} drop below zero",
        "Clouds and showers move north",
        "A thunderstorm hit {}",
    ),
}
TOPIC_TAILS = ("", "", " yesterday", " this week", ", reports {}")

SENTIMENT_ASKED = (
    "Is this review positive or negative?",
    "Classify the sentiment as positive or negative.",
)
TOPIC_ASKED = "What is the topic of this text?"


def opinion(draw: Draw) -> tuple[str, str]:
    """A review of one or two sentences and its sentiment."""
    good = draw.chance(0.5)
    words, verbs, phrases = (
        (GOOD, GOOD_VERBS, GOOD_PHRASES) if good else (BAD, BAD_VERBS, BAD_PHRASES)
    )
    thing, word, verb = draw.of(THINGS), draw.of(words), draw.of(verbs)
    first = draw.of(
        (
            f"The {thing} was {word}.",
            f"The {thing} was {word} and the {draw.of(THINGS)} was {draw.of(words)}.",
            f"I {verb} the {thing}.",
            f"I {verb} the {thing} in {draw.city()}.",
            f"What a {word} {thing}!",
            f"This {thing} is {word} and {draw.of(words)}.",
            f"It was {word}.",
        )
    )
    text = f"{first} {draw.of(phrases)}" if draw.chance(0.4) else first
    return text, "positive" if good else "negative"


def report(draw: Draw) -> tuple[str, str]:
    """A sentence of the news and its topic."""
    topic = draw.of(tuple(TOPICS))
    sentence = draw.of(TOPICS[topic]) + draw.of(TOPIC_TAILS)
    return sentence.replace("{}", draw.proper()) + ".", topic


def asked_about(draw: Draw, question: str, text: str, label: str) -> Document:
    """The question, the text on the next line: the label."""
    prompt = f"{question}\n{text}"
    if draw.chance(0.6):
        return with_system(draw, Turn("user", prompt), Turn("assistant", label))
    return plain(f"{prompt}\nAnswer:", f" {label}\n")


def sentiment(draw: Draw) -> Document:
    """The sentiment of one review."""
    text, label = opinion(draw)
    if draw.chance(0.5):
        return plain(f"{draw.of(('Review', 'Text'))}: {text}\nSentiment:", f" {label}\n")
    return asked_about(draw, draw.of(SENTIMENT_ASKED), text, label)


def topic(draw: Draw) -> Document:
    """The topic of one sentence, free or out of a few."""
    text, label = report(draw)
    if draw.chance(0.4):
        return plain(f"Text: {text}\nTopic:", f" {label}\n")
    others = draw.some([name for name in TOPICS if name != label], draw.between(1, 3))
    options = draw.some([label, *others], len(others) + 1)
    choice = f" Choose one of: {', '.join(options)}." if draw.chance(0.5) else ""
    return asked_about(draw, TOPIC_ASKED + choice, text, label)


def few_shot_labels(draw: Draw) -> Document:
    """Two to four labelled sentences, and one more to label."""
    make, before, word = draw.of(
        (
            (opinion, "Review", "Sentiment"),
            (opinion, "Text", "Sentiment"),
            (report, "Text", "Topic"),
        )
    )
    pieces = []
    for _ in range(draw.between(3, 5)):
        text, label = make(draw)
        pieces += [Piece(f"{before}: {text}\n{word}:"), Piece(f" {label}\n", wanted=True)]
    return Document(tuple(pieces), "\n")
