"""The processor of the vision sandbox: Hugging Face's own classes, without torchvision."""

from __future__ import annotations

from attnpatch.sandbox.vision.drawing import MEAN, PATCH, PIXELS, STD
from attnpatch.sandbox.vision.vocabulary import CHAT_TEMPLATE, IMAGE, build_tokenizer


def build_processor():
    """A `LlavaProcessor` of a `CLIPImageProcessorPil` and the word-level tokenizer.

    `CLIPImageProcessor` needs torchvision since transformers 5; its PIL twin does the same with PIL and numpy. Images
    of another size are scaled and cropped to 48 x 48.
    """
    from transformers import LlavaProcessor
    from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

    images = CLIPImageProcessorPil(
        size={"shortest_edge": PIXELS},
        crop_size={"height": PIXELS, "width": PIXELS},
        image_mean=[MEAN] * 3,
        image_std=[STD] * 3,
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=build_tokenizer(),
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # the class token, which the strategy then drops
        image_token=IMAGE,
        chat_template=CHAT_TEMPLATE,
    )
