"""Processors whose part for videos alone needs torchvision, without that part."""

from __future__ import annotations

from typing import Any

VIDEO = "video_processor"


def without_video(where: str, config: Any, given: dict[str, Any]) -> Any:
    """The processor of a checkpoint without its part for videos; None if it has none, or cannot be read even so.

    config: the checkpoint's; given: what else `from_pretrained` takes.
    """
    import transformers

    # the AutoImageProcessor at the top of transformers asks for torchvision in some versions, this one never
    from transformers.models.auto.image_processing_auto import AutoImageProcessor
    from transformers.models.auto.processing_auto import PROCESSOR_MAPPING_NAMES

    base = getattr(transformers, PROCESSOR_MAPPING_NAMES.get(config.model_type, ""), None)
    if base is None or VIDEO not in base.get_attributes():
        return None

    class Pictures(base):
        @classmethod
        def _get_arguments_from_pretrained(cls, where, processor_dict=None, **options):
            readers = {VIDEO: None, "tokenizer": transformers.AutoTokenizer}
            found = [readers.get(name, AutoImageProcessor) for name in cls.get_attributes()]
            return [None if reader is None else reader.from_pretrained(where, **options) for reader in found]

        def check_argument_for_proper_class(self, argument_name, argument):
            return None if argument is None else super().check_argument_for_proper_class(argument_name, argument)

    Pictures.__name__ = base.__name__
    try:
        return Pictures.from_pretrained(where, **given)
    except Exception:  # noqa: BLE001 - the error of the whole processor is the one to tell
        return None
