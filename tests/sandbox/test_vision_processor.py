"""The processor: real classes, no torchvision, and the same tokens and pixels as the training rows."""

from __future__ import annotations

import pytest
import torch

from attnpatch.sandbox.vision import ASK, DESCRIBE, scenes
from attnpatch.sandbox.vision import vocabulary as v
from attnpatch.sandbox.vision.model import IMAGE_TOKENS
from attnpatch.sandbox.vision.processor import build_processor
from attnpatch.sandbox.vision.rows import PREFIX, pixel_values

SCENES = scenes("biased", 3, split="dev")


@pytest.fixture(scope="module")
def processor(tmp_path_factory):
    """After a round trip through a folder."""
    from transformers import AutoProcessor

    folder = tmp_path_factory.mktemp("processor")
    build_processor().save_pretrained(folder)
    return AutoProcessor.from_pretrained(folder)


def chat(processor, text, *images, generate=True):
    content = [*({"type": "image", "image": image} for image in images), {"type": "text", "text": text}]
    return processor.apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=generate,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )


def test_it_is_made_of_hugging_face_classes(processor):
    from transformers import LlavaProcessor, PreTrainedTokenizerFast

    assert isinstance(processor, LlavaProcessor)
    assert isinstance(processor.tokenizer, PreTrainedTokenizerFast)
    assert type(processor.image_processor).__name__.startswith("CLIPImageProcessor")


def test_a_prompt_has_the_tokens_and_pixels_of_training(processor):
    inputs = chat(processor, "Is there a ring in the image?", SCENES[0].image)
    assert inputs["input_ids"].tolist() == [[*PREFIX, *v.ids("is there a ring in the image ?"), v.ID[v.ASSISTANT]]]
    assert torch.equal(inputs["pixel_values"], pixel_values(SCENES[:1]))


def test_text_and_images_can_be_given_apart(processor):
    content = [{"type": "image"}, {"type": "text", "text": "Describe the image."}]
    text = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
    assert text == "USER: <image> Describe the image. ASSISTANT:"
    apart = processor(images=SCENES[0].image, text=text, return_tensors="pt")
    together = chat(processor, "Describe the image.", SCENES[0].image)
    assert torch.equal(apart["input_ids"], together["input_ids"])


def test_batches_are_padded_on_the_left(processor):
    texts = [f"USER: <image> {text} ASSISTANT:" for text in (ASK[0].format("circle"), ASK[1].format("ring"), "What?")]
    inputs = processor(images=[scene.image for scene in SCENES], text=texts, padding=True, return_tensors="pt")
    assert inputs["pixel_values"].shape == (3, 3, 48, 48)
    assert (inputs["input_ids"] == v.ID[v.IMAGE]).sum(1).tolist() == [IMAGE_TOKENS] * 3
    assert inputs["input_ids"][:, -1].tolist() == [v.ID[v.ASSISTANT]] * 3
    assert ((inputs["input_ids"] == v.ID[v.PAD]) == (inputs["attention_mask"] == 0)).all()
    assert inputs["attention_mask"][2, 0] == 0


def test_prompts_without_and_with_several_images(processor):
    assert chat(processor, "Is there a ring?")["input_ids"].tolist() == [
        [v.ID[v.BOS], v.ID[v.USER], *v.ids("is there a ring ?"), v.ID[v.ASSISTANT]]
    ]
    inputs = chat(processor, "What is in the image?", *(scene.image for scene in SCENES[:2]))
    assert inputs["pixel_values"].shape[0] == 2
    assert (inputs["input_ids"] == v.ID[v.IMAGE]).sum() == 2 * IMAGE_TOKENS


def test_images_of_other_sizes_and_modes_are_brought_to_48_pixels(processor):
    from PIL import Image

    inputs = processor(images=Image.new("L", (200, 100)), text="USER: <image> What?", return_tensors="pt")
    assert inputs["pixel_values"].shape == (1, 3, 48, 48)


def test_a_conversation_goes_on_after_an_answer(processor):
    turns = [("user", "Is there a ring?"), ("assistant", "yes"), ("user", "Is there a cross?")]
    text = processor.apply_chat_template([{"role": role, "content": words} for role, words in turns])
    assert text == "USER: Is there a ring? ASSISTANT: yes</s>USER: Is there a cross? "
    assert v.UNK not in processor.decode(processor(text=text)["input_ids"])


def test_every_word_of_the_prompts_and_captions_is_known():
    for text in (*DESCRIBE, *(ask.format(shape) for ask in ASK for shape in v.SHAPES), SCENES[0].caption):
        assert v.ID[v.UNK] not in v.ids(text)
    assert v.build_tokenizer().decode(v.ids(SCENES[0].caption)) == SCENES[0].caption
    assert v.ids("zebra") == [v.ID[v.UNK]]


def test_more_images_than_places_are_refused(processor):
    with pytest.raises((ValueError, IndexError, StopIteration)):
        processor(images=[scene.image for scene in SCENES], text="USER: <image> What?", return_tensors="pt")
