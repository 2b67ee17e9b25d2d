"""Cities with their country, continent and commonest official language: the facts that RAVEL asks a model for."""

from __future__ import annotations

# Country: continent, language, cities. Cities of one name elsewhere, and countries of two continents, are left out.
COUNTRIES: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "France": ("Europe", "French", ("Paris", "Lyon", "Marseille", "Toulouse", "Bordeaux", "Strasbourg", "Nantes")),
    "Germany": ("Europe", "German", ("Berlin", "Munich", "Hamburg", "Frankfurt", "Cologne", "Dresden", "Stuttgart")),
    "Italy": ("Europe", "Italian", ("Rome", "Milan", "Naples", "Turin", "Venice", "Florence", "Bologna")),
    "Spain": ("Europe", "Spanish", ("Madrid", "Barcelona", "Seville", "Bilbao", "Malaga")),
    "Portugal": ("Europe", "Portuguese", ("Lisbon", "Porto", "Coimbra", "Braga")),
    "Poland": ("Europe", "Polish", ("Warsaw", "Krakow", "Gdansk", "Wroclaw")),
    "Greece": ("Europe", "Greek", ("Athens", "Thessaloniki", "Patras")),
    "Sweden": ("Europe", "Swedish", ("Stockholm", "Gothenburg", "Malmo", "Uppsala")),
    "Norway": ("Europe", "Norwegian", ("Oslo", "Bergen", "Trondheim")),
    "Japan": ("Asia", "Japanese", ("Tokyo", "Osaka", "Kyoto", "Nagoya", "Sapporo", "Hiroshima", "Fukuoka")),
    "China": ("Asia", "Chinese", ("Beijing", "Shanghai", "Shenzhen", "Guangzhou", "Wuhan", "Nanjing", "Chengdu")),
    "India": ("Asia", "Hindi", ("Delhi", "Jaipur", "Lucknow", "Kanpur", "Varanasi", "Agra")),
    "Thailand": ("Asia", "Thai", ("Bangkok", "Phuket", "Pattaya")),
    "Vietnam": ("Asia", "Vietnamese", ("Hanoi", "Saigon", "Hue")),
    "Iran": ("Asia", "Persian", ("Tehran", "Isfahan", "Shiraz", "Tabriz")),
    "Iraq": ("Asia", "Arabic", ("Baghdad", "Mosul", "Basra")),
    "Egypt": ("Africa", "Arabic", ("Cairo", "Luxor", "Aswan")),
    "Morocco": ("Africa", "Arabic", ("Casablanca", "Marrakesh", "Rabat", "Fez")),
    "Kenya": ("Africa", "Swahili", ("Nairobi", "Mombasa", "Kisumu")),
    "Nigeria": ("Africa", "English", ("Lagos", "Abuja", "Kano", "Ibadan")),
    "Ghana": ("Africa", "English", ("Accra", "Kumasi")),
    "Senegal": ("Africa", "French", ("Dakar", "Touba")),
    "Canada": ("North America", "English", ("Toronto", "Ottawa", "Calgary", "Edmonton", "Winnipeg")),
    "Mexico": ("North America", "Spanish", ("Guadalajara", "Monterrey", "Tijuana", "Puebla", "Oaxaca")),
    "Cuba": ("North America", "Spanish", ("Havana", "Camaguey")),
    "Brazil": ("South America", "Portuguese", ("Brasilia", "Salvador", "Recife", "Fortaleza", "Curitiba")),
    "Argentina": ("South America", "Spanish", ("Rosario", "Mendoza", "Salta", "Ushuaia")),
    "Chile": ("South America", "Spanish", ("Valparaiso", "Antofagasta", "Punta Arenas")),
    "Peru": ("South America", "Spanish", ("Lima", "Cusco", "Arequipa")),
    "Australia": ("Australia", "English", ("Sydney", "Melbourne", "Brisbane", "Adelaide", "Canberra")),
}

ATTRIBUTES = ("country", "continent", "language")
# Each prompt shows one city that is not asked about, so that a small model knows what is wanted.
PROMPTS = {
    "country": "Vienna is a city in the country of Austria. {entity} is a city in the country of",
    "continent": "Vienna is a city on the continent of Europe. {entity} is a city on the continent of",
    "language": "People in Vienna speak German. People in {entity} speak",
}


def table() -> list[tuple[str, tuple[str, str, str]]]:
    """Each city with its values in the order of ATTRIBUTES."""
    return [
        (city, (country, continent, language))
        for country, (continent, language, cities) in COUNTRIES.items()
        for city in cities
    ]
