"""Sentiment and topic of a sentence, free or as a choice of given labels."""

# ruff: noqa: SIM905  (a list of words reads better as text)

from __future__ import annotations

from examples.train_sprout.document import Document, Turn, plain
from examples.train_sprout.draw import Draw
from examples.train_sprout.forms import few_shot, with_system

GOOD = tuple(
    """wonderful great excellent fantastic brilliant lovely superb delightful amazing perfect beautiful
charming fun impressive delicious outstanding pleasant marvellous good enjoyable""".split()
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
story acting museum restaurant coffee pizza product""".split()
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
TOPIC_TAILS = (
    "",
    "",
    " yesterday",
    " this week",
    ", reports {}",
    ", says {}",
    " on Monday",
    " again",
)

SENTIMENT_ASKED = (
    "What is the sentiment of this review?",
    "Is this review positive or negative?",
    "Classify the sentiment as positive or negative.",
    "Is the sentiment positive or negative?",
    "Classify the review.",
)
TOPIC_ASKED = (
    "What is the topic of this text?",
    "Which topic is this about?",
    "Classify the topic.",
    "What is this sentence about?",
)


def opinion(draw: Draw) -> tuple[str, str]:
    """A review of one or two sentences and its sentiment."""
    good = draw.chance(0.5)
    words, verbs, phrases = (
        (GOOD, GOOD_VERBS, GOOD_PHRASES) if good else (BAD, BAD_VERBS, BAD_PHRASES)
    )
    thing, word, verb = draw.of(THINGS), draw.of(words), draw.of(verbs)
    where = draw.of(("", "", f" in {draw.city()}", f" by {draw.name()}", f" at {draw.proper()}"))
    first = draw.of(
        (
            f"The {thing}{where} was {word}.",
            f"I {verb} the {thing}{where}.",
            f"What a {word} {thing}!",
            f"The {thing}{where} is really {word}.",
            f"This {thing} is {word} and {draw.of(words)}.",
            f"{word.capitalize()} {thing}.",
            f"It was {word}.",
            f"We found the {thing} {word}.",
            f"The {thing} was not {draw.of(BAD if good else GOOD)} at all, it was {word}.",
        )
    )
    text = f"{first} {draw.of(phrases)}" if draw.chance(0.4) else first
    return text, "positive" if good else "negative"


def report(draw: Draw) -> tuple[str, str]:
    """A sentence of the news and its topic."""
    topic = draw.of(tuple(TOPICS))
    sentence = draw.of(TOPICS[topic]) + draw.of(TOPIC_TAILS)
    return sentence.replace("{}", draw.proper()) + ".", topic


def instructed(draw: Draw, text: str, label: str, options: list[str], asked: str) -> Document:
    """The task in words, the labels to choose from, the text: the label."""
    listed = draw.of(
        (
            f"Labels: {', '.join(options)}",
            f"Choose one of: {', '.join(options)}.",
            f"Options: {', '.join(options)}",
            f"Answer with one of: {', '.join(options)}.",
        )
    )
    order = f"{asked}\n{listed}" if draw.chance(0.6) else asked
    if options == ["positive", "negative"] and draw.chance(0.5):
        order = asked
    quoted = draw.of((f"Text: {text}", text, f'"{text}"', f"Sentence: {text}"))
    prompt = draw.of((f"{order}\n{quoted}", f"{quoted}\n{order}"))
    if draw.chance(0.55):
        return with_system(draw, Turn("user", prompt), Turn("assistant", label))
    return plain(f"{prompt}\n{draw.of(('Answer:', 'Label:', 'Class:'))}", f" {label}\n")


def sentiment(draw: Draw) -> Document:
    """The sentiment of one review."""
    text, label = opinion(draw)
    if draw.chance(0.35):
        form = draw.of(
            (
                ("Review: ", "\nSentiment:"),
                ("Text: ", "\nSentiment:"),
                ("", "\nSentiment:"),
                ("Sentence: ", "\nLabel (positive or negative):"),
            )
        )
        return plain(f"{form[0]}{text}{form[1]}", f" {label}\n")
    options = draw.some(("positive", "negative"), 2)
    return instructed(draw, text, label, options, draw.of(SENTIMENT_ASKED))


def topic(draw: Draw) -> Document:
    """The topic of one sentence."""
    text, label = report(draw)
    if draw.chance(0.3):
        form = draw.of((("Text: ", "\nTopic:"), ("", "\nTopic:"), ("Headline: ", "\nTopic:")))
        return plain(f"{form[0]}{text}{form[1]}", f" {label}\n")
    others = draw.some([name for name in TOPICS if name != label], draw.between(1, 4))
    options = draw.some([label, *others], len(others) + 1)
    return instructed(draw, text, label, options, draw.of(TOPIC_ASKED))


def few_shot_labels(draw: Draw) -> Document:
    """Two to four labelled sentences, and one more to label."""
    make, word = draw.of(((opinion, "Sentiment"), (report, "Topic")))
    if draw.chance(0.5):
        before = draw.of(("Text: ", "Review: ", "Sentence: "))
        examples = [make(draw) for _ in range(draw.between(3, 5))]
        *shown, (text, label) = examples
        given = "".join(f"{before}{t}\n{word}: {x}\n" for t, x in shown)
        return plain(f"{given}{before}{text}\n{word}:", f" {label}\n")
    return few_shot(
        draw, [make(draw) for _ in range(draw.between(3, 5))], f"Classify the {word.lower()}."
    )
