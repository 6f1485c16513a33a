"""English filler and stories for the text tasks: seeded, license-free, with names that need long range."""

from __future__ import annotations

from random import Random

ADJECTIVES = ("small", "large", "old", "young", "quiet", "noisy", "clever", "tired", "gentle", "proud")
ANIMALS = ("dog", "cat", "horse", "bird", "rabbit", "fox", "bear", "mouse", "goat", "sheep")
VERBS = ("sees", "finds", "likes", "carries", "paints", "hides", "cleans", "sells", "repairs", "borrows")
COLOURS = ("red", "blue", "green", "white", "black", "yellow", "brown", "grey")
THINGS = ("ball", "box", "lamp", "book", "chair", "door", "cup", "bell", "coat", "map")
PLACES = ("garden", "kitchen", "tower", "market", "forest", "harbour", "school", "field", "station", "library")
FIRST = ("Anna", "Peter", "Maria", "John", "Clara", "David", "Laura", "Simon", "Helen", "Oscar", "Nina", "Paul")
LAST = ("Baker", "Miller", "Fisher", "Carter", "Hunter", "Porter", "Turner", "Walker", "Cooper", "Mason", "Taylor")


def predicate(rng: Random) -> str:
    """What someone does: a verb, a coloured thing and often a place."""
    text = f"{rng.choice(VERBS)} the {rng.choice(COLOURS)} {rng.choice(THINGS)}"
    return f"{text} near the {rng.choice(PLACES)}." if rng.random() < 0.5 else f"{text}."


def sentence(rng: Random) -> str:
    """One sentence of filler, about an animal."""
    return f"The {rng.choice(ADJECTIVES)} {rng.choice(ANIMALS)} {predicate(rng)}"


def story(rng: Random, people: int) -> tuple[list[str], list[str]]:
    """Two lists that describe `people` persons: first names, and the surname each keeps through the document."""
    first = rng.sample(FIRST, min(people, len(FIRST)))
    return first, [rng.choice(LAST) for _ in first]
