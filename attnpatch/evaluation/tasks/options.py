"""What a user can say about the texts of tasks, beyond their names."""

from __future__ import annotations

from dataclasses import dataclass, field

from attnpatch.evaluation.vision.settings import VisionSettings

DEPTHS = 8  # needle documents are spread evenly over this many depths where none are given


@dataclass(frozen=True)
class TaskOptions:
    """Texts and prompts.

    Attributes:
        text_file: a file with running text; replaces the built-in stories of the perplexity tasks.
        haystack: running text for RULER's essays, a file or a data set on the Hub; `text_file` if not given.
        squad, hotpot: SQuAD and HotpotQA, the official JSON file or a data set on the Hub.
        word_list: a file with one word a line, for RULER; the lists of wonderwords if not given.
        depths: where in the context the needle of needle tasks stands, 0 to 100 %, in turn; empty: spread or drawn.
        chat_template: tasks that generate put their prompt into the tokenizer's chat template.
        data_dir: a folder with pope/, coco/, mme/, amber/ and images/, in place of the options below.
        image_root: the folder with the pictures.
        pope, coco, mme, amber: folders with the annotations; mme may be a file.
        chair_synonyms: CHAIR's table of objects, in place of ours.
        chair_images: a file with the pictures to describe, one id or file name a line; drawn at random without it.
        vision: how tasks with pictures are asked.
    """

    text_file: str | None = None
    haystack: str | None = None
    squad: str | None = None
    hotpot: str | None = None
    word_list: str | None = None
    depths: tuple[float, ...] = ()
    chat_template: bool = False
    data_dir: str | None = None
    image_root: str | None = None
    pope: str | None = None
    coco: str | None = None
    mme: str | None = None
    amber: str | None = None
    chair_synonyms: str | None = None
    chair_images: str | None = None
    vision: VisionSettings = field(default_factory=VisionSettings)

    def depth(self, index: int, spread: int | None = None) -> float | None:
        """Depth of document `index` in 0 to 1: the given ones in turn, else the middles of `spread` equal parts."""
        if self.depths:
            return self.depths[index % len(self.depths)] / 100
        return None if spread is None else (index % spread + 0.5) / spread
