"""Capitals, countries, currencies, continents, languages, and small facts of the world."""

from __future__ import annotations

from examples.train_sprout.document import Document, Piece, plain
from examples.train_sprout.draw import Draw
from examples.train_sprout.forms import ask, few_shot
from examples.train_sprout.words import COUNTRIES, Country

TO_CAPITAL = (
    "What is the capital of {0}?",
    "What's the capital of {0}?",
    "Name the capital of {0}.",
)
TO_COUNTRY = ("In which country is {0}?", "{0} is the capital of which country?")
TO_CURRENCY = ("What is the currency of {0}?", "Which currency is used in {0}?")
FROM_CURRENCY = ("Which country uses the {0}?",)
TO_CONTINENT = ("Which continent is {0} in?",)
TO_LANGUAGE = ("What language is spoken in {0}?",)

# (text up to the answer, column it starts from, column of the answer)
COMPLETIONS = (
    ("The capital of {0} is", "name", "capital"),
    ("The currency of {0} is the", "name", "currency"),
    ("{0} is the capital of", "capital", "name"),
    ("The {0} is the currency of", "currency", "name"),
    ("People in {0} speak", "name", "language"),
)

ONE_COUNTRY_CURRENCIES = tuple(country for country in COUNTRIES if country.currency != "euro")

SMALL_FACTS = tuple(
    (question.strip(), answer.strip())
    for question, _, answer in (
        line.partition("|")
        for line in """
What colour is the sky?|blue
What color is the sky?|blue
What colour is grass?|green
What colour is snow?|white
What colour is a banana?|yellow
What colour is blood?|red
What colour is coal?|black
How many days are in a week?|7
How many months are in a year?|12
How many hours are in a day?|24
How many minutes are in an hour?|60
How many seconds are in a minute?|60
How many legs does a spider have?|8
How many legs does a dog have?|4
How many legs does an insect have?|6
How many wheels does a bicycle have?|2
How many wheels does a car have?|4
How many letters are in the English alphabet?|26
How many continents are there?|7
How many sides does a triangle have?|3
How many sides does a square have?|4
How many planets are in the solar system?|8
Which planet do we live on?|Earth
Which planet is the largest?|Jupiter
Which planet is closest to the Sun?|Mercury
Which planet is known as the red planet?|Mars
What is the largest ocean?|the Pacific Ocean
What is the highest mountain?|Mount Everest
What is the longest river in Africa?|the Nile
What is the largest animal?|the blue whale
What is the fastest land animal?|the cheetah
What is frozen water called?|ice
What do bees make?|honey
What do cows give?|milk
What do plants need to grow?|light and water
What is H2O?|water
What is the chemical symbol for gold?|Au
What is the chemical symbol for iron?|Fe
What is the chemical symbol for oxygen?|O
Who wrote Hamlet?|William Shakespeare
Who wrote Don Quixote?|Miguel de Cervantes
Who painted the Mona Lisa?|Leonardo da Vinci
Who discovered penicillin?|Alexander Fleming
Who proposed the theory of relativity?|Albert Einstein
Who was the first person on the Moon?|Neil Armstrong
Who wrote the first computer program?|Ada Lovelace
What is the opposite of hot?|cold
What is the opposite of big?|small
What is the opposite of up?|down
What is the opposite of day?|night
What is the opposite of happy?|sad
What is the opposite of fast?|slow
What is the opposite of old?|young
What is the opposite of open?|closed
What sound does a dog make?|woof
What sound does a cat make?|meow
What sound does a cow make?|moo
What day comes after Monday?|Tuesday
What day comes after Friday?|Saturday
What day comes after Sunday?|Monday
What month comes after March?|April
What month comes after December?|January
At what temperature does water boil?|100 degrees Celsius
At what temperature does water freeze?|0 degrees Celsius
What is the boiling point of water?|100 degrees Celsius
""".strip().splitlines()
    )
)


def pair(draw: Draw, relation: str) -> tuple[str, str]:
    """A question of one relation and its answer."""
    country = draw.of(COUNTRIES)
    if relation == "capital":
        return draw.of(TO_CAPITAL).format(country.name), country.capital
    if relation == "country":
        return draw.of(TO_COUNTRY).format(country.capital), country.name
    if relation == "currency":
        return draw.of(TO_CURRENCY).format(country.name), country.currency
    if relation == "continent":
        return draw.of(TO_CONTINENT).format(country.name), country.continent
    if relation == "language":
        return draw.of(TO_LANGUAGE).format(country.name), country.language
    if relation == "currency's country":
        country = draw.of(ONE_COUNTRY_CURRENCIES)
        return draw.of(FROM_CURRENCY).format(country.currency), country.name
    raise ValueError(f"no relation {relation!r}")


GEOGRAPHY = (
    "capital",
    "capital",
    "country",
    "country",
    "currency",
    "currency",
    "currency's country",
    "continent",
    "language",
)


def geography(draw: Draw) -> Document:
    """One question or sentence to complete about a country."""
    if draw.chance(0.2):
        return completion(draw)
    return ask(draw, *pair(draw, draw.of(GEOGRAPHY)))


def completion(draw: Draw) -> Document:
    """A sentence about a country without its last words."""
    text, given, wanted = draw.of(COMPLETIONS)
    countries = ONE_COUNTRY_CURRENCIES if given == "currency" else COUNTRIES
    country: Country = draw.of(countries)
    opening = text.format(getattr(country, given))
    return plain(opening, f" {getattr(country, wanted)}.", stop="")


def small_fact(draw: Draw) -> Document:
    """One of the small facts."""
    return ask(draw, *draw.of(SMALL_FACTS))


def few_shot_facts(draw: Draw) -> Document:
    """Two to four answered questions, and one more: of one relation or of mixed ones."""
    count = draw.between(3, 5)
    if draw.chance(0.3):
        return few_shot(draw, draw.some(SMALL_FACTS, count))
    relation = draw.of(GEOGRAPHY) if draw.chance(0.7) else None
    return few_shot(draw, [pair(draw, relation or draw.of(GEOGRAPHY)) for _ in range(count)])


def country_card(draw: Draw) -> Document:
    """Lines about a country under given keys, each to be completed."""
    pieces = []
    for country in draw.some(COUNTRIES, draw.between(1, 2)):
        pieces.append(Piece(f"Country: {country.name}\n"))
        for key in draw.some(("capital", "currency", "continent", "language"), 3):
            pieces.append(Piece(f"{key.capitalize()}:"))
            pieces.append(Piece(f" {getattr(country, key)}\n", wanted=True))
    return Document(tuple(pieces), "\n")
