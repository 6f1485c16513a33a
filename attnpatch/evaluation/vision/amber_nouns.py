"""Nouns of captions and the similarity of words, by nltk and spaCy, as AMBER finds them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from attnpatch.evaluation.errors import SkipCell
from attnpatch.evaluation.hallucination import amber_captions, read_lexicon
from attnpatch.evaluation.hallucination.amber_captions import Annotation, Found
from attnpatch.evaluation.hallucination.columns import Column
from attnpatch.evaluation.hallucination.reading import read_bytes

VECTORS = "en_core_web_lg"
NLTK_DATA = (
    ("tokenizers/punkt_tab", "punkt_tab"),
    ("taggers/averaged_perceptron_tagger_eng", "averaged_perceptron_tagger_eng"),
    ("corpora/wordnet", "wordnet"),
)
NEEDS = "AMBER's captions are judged with nltk and spaCy"


def require() -> None:
    """Raise SkipCell for what is not installed, with the command that installs it."""
    missing = [name for name in ("nltk", "spacy") if find_spec(name) is None]
    if missing:
        raise SkipCell(f"{NEEDS}; {' and '.join(missing)} not installed", 'pip install "attnpatch[amber]"')
    if find_spec(VECTORS) is None:
        raise SkipCell(f"{NEEDS}; the word vectors {VECTORS} are missing", f"python -m spacy download {VECTORS}")
    absent = [name for path, name in NLTK_DATA if not _has(path)]
    if absent:
        raise SkipCell(f"{NEEDS}; nltk lacks {', '.join(absent)}", f"python -m nltk.downloader {' '.join(absent)}")


def lexicon_digest(folder: Path) -> str:
    """sha256 over the two files that say which nouns count."""
    parts = [read_bytes(folder / name, "AMBER file") for name in ("relation.json", "safe_words.txt")]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()


def columns(records: list[dict[str, Any]], folder: Path) -> dict[str, Column]:
    """AMBER's metrics of captions. What was found in each goes into its record."""
    return judged(records, folder, nouns, similarity())


def judged(
    records: list[dict[str, Any]], folder: Path, find: Callable[[str], list[str]], close: amber_captions.Similarity
) -> dict[str, Column]:
    """The same with nouns and similarity from outside."""
    lexicon, found, annotations = read_lexicon(folder), [], []
    for one in records:
        annotation = Annotation(tuple(one["references"]), tuple(one.get("extra", {}).get("hallu", ())))
        result: Found = amber_captions.judge(find(one["prediction"]), annotation, lexicon, close)
        one["hallucinated"] = result.wrong
        found.append(result)
        annotations.append(annotation)
    return amber_captions.columns(found, annotations)


def nouns(text: str) -> list[str]:
    """Lemmas of the nouns, repeats included."""
    import nltk
    from nltk.stem import WordNetLemmatizer

    lemmatizer = WordNetLemmatizer()
    tagged = nltk.pos_tag(nltk.word_tokenize(text))
    return [lemmatizer.lemmatize(word) for word, tag in tagged if tag.startswith("NN")]


@cache
def similarity() -> amber_captions.Similarity:
    """Cosine of the word vectors of two words."""
    import spacy

    model = spacy.load(VECTORS)
    parsed = cache(model)
    return cache(lambda one, two: parsed(one).similarity(parsed(two)))


def _has(path: str) -> bool:
    import nltk

    try:
        nltk.data.find(path)
    except LookupError:
        return False
    return True
