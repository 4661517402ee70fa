"""The closed lists that the corpus draws from: places, names, common words."""

# ruff: noqa: SIM905  (a list of words reads better as text)

from __future__ import annotations

from typing import NamedTuple


class Country(NamedTuple):
    """One row of geography; `demonym` is the adjective, as in *the Danish capital*."""

    name: str
    capital: str
    currency: str
    continent: str
    language: str


COUNTRIES = tuple(
    Country(*row.split(", "))
    for row in """
France, Paris, euro, Europe, French
Germany, Berlin, euro, Europe, German
Italy, Rome, euro, Europe, Italian
Spain, Madrid, euro, Europe, Spanish
Portugal, Lisbon, euro, Europe, Portuguese
Greece, Athens, euro, Europe, Greek
Austria, Vienna, euro, Europe, German
Finland, Helsinki, euro, Europe, Finnish
Ireland, Dublin, euro, Europe, English
Netherlands, Amsterdam, euro, Europe, Dutch
Japan, Tokyo, yen, Asia, Japanese
China, Beijing, yuan, Asia, Chinese
India, New Delhi, Indian rupee, Asia, Hindi
South Korea, Seoul, South Korean won, Asia, Korean
Thailand, Bangkok, baht, Asia, Thai
Vietnam, Hanoi, dong, Asia, Vietnamese
Mongolia, Ulaanbaatar, tugrik, Asia, Mongolian
Bangladesh, Dhaka, taka, Asia, Bengali
Malaysia, Kuala Lumpur, ringgit, Asia, Malay
Israel, Jerusalem, shekel, Asia, Hebrew
Turkey, Ankara, lira, Asia, Turkish
Saudi Arabia, Riyadh, riyal, Asia, Arabic
Poland, Warsaw, zloty, Europe, Polish
Hungary, Budapest, forint, Europe, Hungarian
Czechia, Prague, koruna, Europe, Czech
Denmark, Copenhagen, Danish krone, Europe, Danish
Norway, Oslo, Norwegian krone, Europe, Norwegian
Sweden, Stockholm, krona, Europe, Swedish
Switzerland, Bern, franc, Europe, German
Ukraine, Kyiv, hryvnia, Europe, Ukrainian
Romania, Bucharest, leu, Europe, Romanian
Albania, Tirana, lek, Europe, Albanian
Russia, Moscow, ruble, Europe, Russian
England, London, pound, Europe, English
Egypt, Cairo, Egyptian pound, Africa, Arabic
Kenya, Nairobi, Kenyan shilling, Africa, Swahili
Nigeria, Abuja, naira, Africa, English
Ghana, Accra, cedi, Africa, English
Ethiopia, Addis Ababa, birr, Africa, Amharic
Morocco, Rabat, dirham, Africa, Arabic
South Africa, Pretoria, rand, Africa, Zulu
Angola, Luanda, kwanza, Africa, Portuguese
Zambia, Lusaka, kwacha, Africa, English
Brazil, Brasilia, real, South America, Portuguese
Argentina, Buenos Aires, Argentine peso, South America, Spanish
Chile, Santiago, Chilean peso, South America, Spanish
Peru, Lima, sol, South America, Spanish
Paraguay, Asuncion, guarani, South America, Spanish
Venezuela, Caracas, bolivar, South America, Spanish
Mexico, Mexico City, Mexican peso, North America, Spanish
Canada, Ottawa, Canadian dollar, North America, English
United States, Washington, US dollar, North America, English
Cuba, Havana, Cuban peso, North America, Spanish
Guatemala, Guatemala City, quetzal, North America, Spanish
Haiti, Port-au-Prince, gourde, North America, French
Australia, Canberra, Australian dollar, Oceania, English
New Zealand, Wellington, New Zealand dollar, Oceania, English
Iceland, Reykjavik, Icelandic krona, Europe, Icelandic
""".strip().splitlines()
)

CITIES = (
    *(country.capital for country in COUNTRIES),
    *"""Lyon, Milan, Porto, Munich, Hamburg, Geneva, Zurich, Boston, Chicago, Denver, Seattle, Toronto,
Montreal, Sydney, Melbourne, Osaka, Kyoto, Mumbai, Shanghai, Lagos, Cape Town, Glasgow, Leeds,
Oxford, Cambridge, Bristol, Naples, Turin, Valencia, Seville, Krakow, Bergen, Aarhus, Rotterdam,
Antwerp, Graz, New York, Los Angeles, San Francisco, Dallas, Austin, Miami""".replace(
        "\n", " "
    ).split(", "),
)

FIRST_NAMES = tuple(
    """Ada Alan Alice Amir Ana Anna Ben Bob Carla Carlos Chen Clara Daniel David Diego Ella Emma Eva
Felix Fatima Grace George Hana Hugo Ines Ivan Jack James Jane John Julia Karl Kate Laura Leo
Lena Linda Lucas Lucy Maria Marco Mark Mary Max Maya Mia Mina Nina Noah Nora Olga Oliver Omar
Oscar Paul Peter Petra Priya Rosa Sam Sara Sofia Tom Tina Victor Wei Yara Yuki Zoe""".split()
)

LAST_NAMES = tuple(
    """Adams Allen Baker Bell Brown Clark Cohen Cook Costa Davis Evans Fischer Garcia Green Hall Harris
Hopper Hill Ito Jones Khan Kim King Klein Lee Lopez Martin Meyer Miller Moore Nowak Okafor Patel
Perez Reed Rossi Santos Scott Silva Singh Smith Sato Stone Tanaka Taylor Turing Walker Wang
Weber White Wilson Wood Wright Young""".split()
)

STREETS = ("Main", "Oak", "Park", "High", "Mill", "Lake", "Church", "King", "Green", "Station")

NOUNS = tuple(
    """apple river stone garden tiger bridge cloud lamp table window paper silver forest mountain ocean
music violin piano guitar train rocket engine button mirror basket candle hammer pencil pillow
ladder bottle camera carpet desk door eagle falcon feather flower flute fox harbor honey horse
island jacket kettle kite ladder lemon lion marble market meadow moon night orange owl panda
peach pearl pepper planet potato rabbit rain ribbon robin rose salt ship shadow shirt snow soap
spider star storm sugar sun swan teapot thunder tower tree tulip valley wagon water whale wheel
winter wolf yarn zebra red blue green yellow black white purple brown fast slow happy quiet""".split()
)

COLOURS = ("red", "blue", "green", "yellow", "black", "white", "purple", "orange", "brown", "grey")
JOBS = tuple(
    """painter teacher doctor pilot farmer lawyer baker nurse engineer singer writer chemist dentist
carpenter chef judge sailor tailor plumber librarian mathematician programmer architect
biologist""".split()
)
HOBBIES = (
    "chess",
    "tennis",
    "painting",
    "hiking",
    "swimming",
    "cooking",
    "reading",
    "dancing",
    "fishing",
    "football",
    "running",
    "gardening",
    "singing",
    "sailing",
    "yoga",
    "music",
)
PETS = ("cat", "dog", "parrot", "rabbit", "hamster", "goldfish", "turtle", "horse")
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
ITEMS = (
    "lamp",
    "chair",
    "table",
    "phone",
    "bicycle",
    "jacket",
    "camera",
    "kettle",
    "guitar",
    "laptop",
    "backpack",
    "watch",
    "pen",
    "mug",
    "clock",
)
