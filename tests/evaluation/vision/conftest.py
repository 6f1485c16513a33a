"""A tiny random LLaVA with a real processor, and small versions of the benchmarks' folders."""

from __future__ import annotations

import json

import pytest
from PIL import Image
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers, processors
from transformers import CLIPImageProcessorPil, LlavaProcessor, PreTrainedTokenizerFast

from attnpatch.evaluation import evaluate
from tests.zoo import IMAGE, build

WORDS = (
    "Is there a cat dog in the image ? Yes No . , Describe this Answer question using single word or phrase USER: x"
)
TEMPLATE = (
    "{% for m in messages %}USER: {% for part in m['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %} {{ part['text'] }}{% endif %}"
    "{% endfor %}{% endfor %} ASSISTANT:"
)
NAMES = ("one.jpg", "two.jpg", "three.jpg")


def make_processor(chat: bool = True) -> LlavaProcessor:
    vocabulary = {word: index for index, word in enumerate(["<pad>", "<s>", "</s>", "<unk>", *WORDS.split()])}
    vocabulary |= {"<image>": IMAGE, **{f"w{index}": index for index in range(len(vocabulary), 128) if index != IMAGE}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken(one) for one in ("<pad>", "<s>", "</s>", "<image>")])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    )
    return LlavaProcessor(
        CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}),
        fast,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        image_token="<image>",
        chat_template=TEMPLATE if chat else None,
    )


@pytest.fixture(scope="session")
def processor():
    return make_processor()


@pytest.fixture(scope="session")
def model():
    return build("llava")


@pytest.fixture(scope="session")
def llava_folder(tmp_path_factory, model, processor):
    """The model as a checkpoint."""
    folder = tmp_path_factory.mktemp("llava")
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def questions(image: str, start: int) -> list[dict]:
    texts = [("cat", "yes"), ("dog", "no"), ("x", "yes")]
    return [
        {"question_id": start + n, "image": image, "text": f"Is there a {what} in the image ?", "label": label}
        for n, (what, label) in enumerate(texts)
    ]


@pytest.fixture
def data(tmp_path):
    """A --data-dir with everything, three pictures."""
    root = tmp_path / "data"
    for folder in ("images", "pope", "mme", "coco", "amber/query"):
        (root / folder).mkdir(parents=True)
    for index, name in enumerate(NAMES):
        Image.new("RGB", (30 + 5 * index, 40), (40 * index, 200, 10)).save(root / "images" / name, quality=95)
    for split in ("random", "popular", "adversarial"):
        rows = [row for index, name in enumerate(NAMES) for row in questions(name, 1 + 3 * index)]
        (root / "pope" / f"coco_pope_{split}.json").write_text("\n".join(map(json.dumps, rows)) + "\n")
    for group in ("existence", "count"):
        rows = [
            f"{name}\tIs there a {what} ?\t{label}"
            for name in NAMES
            for what, label in (("cat", "Yes"), ("dog", "No"))
        ]
        (root / "mme" / f"{group}.txt").write_text("\n".join(rows) + "\n")
    images = [{"id": index, "file_name": name} for index, name in enumerate(NAMES)]
    (root / "coco" / "instances_val2014.json").write_text(
        json.dumps(
            {
                "images": images,
                "categories": [{"id": 17, "name": "cat"}],
                "annotations": [{"image_id": index, "category_id": 17} for index in range(3)],
            }
        )
    )
    told = [{"image_id": index, "caption": "A cat and a dog."} for index in range(3)]
    (root / "coco" / "captions_val2014.json").write_text(json.dumps({"images": images, "annotations": told}))
    kinds = ("generative", "discriminative-hallucination", "discriminative-attribute-state")
    truths = ({"truth": ["cat"], "hallu": ["dog"]}, {"truth": "no"}, {"truth": "yes"})
    rows = [{"id": n, "type": kind, **truth} for n, (kind, truth) in enumerate(zip(kinds, truths, strict=True), 1)]
    (root / "amber" / "annotations.json").write_text(json.dumps(rows))
    queries = [{"id": n, "image": NAMES[0], "query": "Is there a cat ?"} for n in (1, 2, 3)]
    (root / "amber" / "query" / "query_all.json").write_text(json.dumps(queries))
    (root / "amber" / "relation.json").write_text(json.dumps({"cat": [], "dog": ["puppy"]}))
    (root / "amber" / "safe_words.txt").write_text("image\n")
    return root


@pytest.fixture
def run(model, processor, data):
    """`evaluate` on the tiny model and data."""

    def go(*tasks, **given):
        given = {"processor": processor, "methods": ["stock"], "limit": 50, "speed_rounds": 0, **given}
        vision = {"answer_tokens": 3, "caption_tokens": 5, **given.pop("vision", {})}
        given.setdefault("data_dir", data)
        return evaluate(model, given.pop("processor"), tasks=tasks, vision=vision, **given)

    return go
