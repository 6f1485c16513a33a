"""What a companion is: one config, one class, and what it gives to one call of `generate`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from transformers import LogitsProcessor, LogitsProcessorList, PreTrainedModel

from attnpatch.patching.configured import Configured
from attnpatch.patching.errors import AttnPatchError


class Companion(Configured):
    """A way of decoding from a paper. It holds nothing of a prompt, so one serves any number of calls and models."""

    kind = "companion"
    one_row: ClassVar[bool] = False  # it takes one prompt at a time

    def processor(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> LogitsProcessor:
        """What changes the logits of one `model.generate(**inputs)`; every call needs a new one.

        inputs: what the model's processor made of the prompts. Raises AttnPatchError if this is no companion that
        works on logits alone, or the inputs lack what it needs; UnsupportedModelError for a model it cannot serve.
        """
        raise AttnPatchError(
            f"companion {self.name!r} chooses tokens in a loop of its own and is no logits processor; call "
            "companion.generate(model, inputs, ...), or give companion.settings(model, inputs) to model.generate()."
        )

    def settings(self, model: PreTrainedModel, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Keyword arguments that make one `model.generate(**inputs, ...)` decode this way; as `processor`."""
        return {"logits_processor": LogitsProcessorList([self.processor(model, inputs)])}

    def generate(self, model: PreTrainedModel, inputs: Mapping[str, Any], **options: Any) -> torch.Tensor:
        """`model.generate(**inputs, **options)`, decoded this way.

        Logits processors among `options` come after the companion. Raises AttnPatchError for an option that the
        companion sets itself to another value.
        """
        settings = self.settings(model, inputs)
        if "logits_processor" in settings and options.get("logits_processor") is not None:
            settings["logits_processor"] += options.pop("logits_processor")
        for name, value in settings.items():
            if options.pop(name, value) != value:
                raise AttnPatchError(
                    f"companion {self.name!r} generates with {name}={value!r} and cannot do otherwise; leave "
                    f"{name} out."
                )
        return model.generate(**inputs, **options, **settings)
