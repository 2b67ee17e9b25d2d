"""People of the past with the country and the profession by which encyclopaedias introduce them, for RAVEL."""

from __future__ import annotations

# Those who are introduced by two countries or two professions are left out.
PEOPLE: dict[tuple[str, str], tuple[str, ...]] = {
    ("England", "physicist"): ("Isaac Newton", "Stephen Hawking", "Michael Faraday"),
    ("Germany", "physicist"): ("Max Planck", "Werner Heisenberg", "Wilhelm Röntgen"),
    ("Austria", "physicist"): ("Erwin Schrödinger", "Ludwig Boltzmann", "Lise Meitner"),
    ("Italy", "physicist"): ("Enrico Fermi", "Alessandro Volta"),
    ("America", "physicist"): ("Richard Feynman", "Robert Millikan"),
    ("Germany", "composer"): (
        "Johann Sebastian Bach", "Ludwig van Beethoven", "Johannes Brahms", "Richard Wagner", "Clara Schumann",
    ),
    ("Austria", "composer"): ("Wolfgang Amadeus Mozart", "Franz Schubert", "Joseph Haydn"),
    ("Italy", "composer"): ("Antonio Vivaldi", "Giuseppe Verdi", "Giacomo Puccini"),
    ("France", "composer"): ("Claude Debussy", "Maurice Ravel", "Hector Berlioz", "Lili Boulanger"),
    ("Russia", "composer"): ("Pyotr Tchaikovsky", "Modest Mussorgsky", "Dmitri Shostakovich"),
    ("Spain", "painter"): ("Pablo Picasso", "Salvador Dali", "Francisco Goya", "Diego Velazquez", "Joan Miro"),
    ("France", "painter"): (
        "Paul Cezanne", "Edgar Degas", "Henri Matisse", "Edouard Manet", "Berthe Morisot", "Rosa Bonheur",
    ),
    ("Italy", "painter"): ("Caravaggio", "Sandro Botticelli", "Titian", "Artemisia Gentileschi"),
    ("Mexico", "painter"): ("Diego Rivera", "Frida Kahlo"),
    ("America", "painter"): ("Edward Hopper", "Georgia O'Keeffe", "Mary Cassatt"),
    ("England", "novelist"): (
        "Charles Dickens", "George Orwell", "Jane Austen", "Agatha Christie", "Emily Bronte", "Virginia Woolf",
        "Mary Shelley",
    ),
    ("Russia", "novelist"): ("Leo Tolstoy", "Fyodor Dostoevsky", "Ivan Turgenev"),
    ("America", "novelist"): (
        "Mark Twain", "Ernest Hemingway", "John Steinbeck", "Toni Morrison", "Harper Lee", "Louisa May Alcott",
        "Edith Wharton",
    ),
    ("France", "novelist"): ("Victor Hugo", "Emile Zola", "Jules Verne", "Gustave Flaubert", "George Sand"),
    ("Germany", "novelist"): ("Thomas Mann",),
    ("Germany", "philosopher"): ("Immanuel Kant", "Friedrich Nietzsche", "Martin Heidegger"),
    ("France", "philosopher"): (
        "Rene Descartes", "Voltaire", "Jean-Paul Sartre", "Simone de Beauvoir", "Simone Weil",
    ),
    ("Greece", "philosopher"): ("Socrates", "Plato", "Aristotle", "Epicurus"),
    ("England", "philosopher"): ("John Locke", "Thomas Hobbes"),
}  # fmt: skip

ATTRIBUTES = ("country", "profession")
# Each prompt shows one person who is not asked about, of a profession that no other has.
PROMPTS = {
    "country": "The home country of Michelangelo was Italy. The home country of {entity} was",
    "profession": "The profession of Michelangelo was sculptor. The profession of {entity} was",
}


def table() -> list[tuple[str, tuple[str, str]]]:
    """Each person with their values in the order of ATTRIBUTES."""
    return [(person, values) for values, people in PEOPLE.items() for person in people]
