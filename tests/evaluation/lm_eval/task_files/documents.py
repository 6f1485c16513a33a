"""Documents of the local tasks; lm-eval calls these with whatever stands in metadata and dataset_kwargs."""

import random

import datasets

WORDS = ["amber", "birch", "cedar", "delta", "ember", "fjord", "grove", "heron", "inlet", "jetty", "kelp", "larch"]


def _dataset(documents):
    return {"test": datasets.Dataset.from_list(documents)}


def generation(n=12, **_):
    rng = random.Random(0)
    keys = [str(rng.randint(100, 999)) for _ in range(n)]
    return _dataset([{"question": f"The key is {key}. What is the key?", "answer": key} for key in keys])


def choices(n=12, **_):
    """Choices of different lengths, so that a batch of them has padding."""
    rng = random.Random(1)
    documents = []
    for _ in range(n):
        words = rng.sample(WORDS, 6)
        options = [words[0], " ".join(words[1:3]), " ".join(words[3:6])]
        documents.append({"question": f"After {' '.join(words)} comes", "options": options, "label": rng.randrange(3)})
    return _dataset(documents)


def running(n=6, **_):
    rng = random.Random(2)
    return _dataset([{"text": " ".join(rng.choices(WORDS, k=30))} for _ in range(n)])


def global_random(n=8, **_):
    """Draws from the global random state, as lm-eval's RULER does."""
    return _dataset([{"question": f"The key is {random.randint(100, 999)}.", "answer": "1"} for _ in range(n)])
