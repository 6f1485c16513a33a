"""What a model looks like from outside, to compare before a patch and after its removal."""

from __future__ import annotations

import torch


def generated_logits(model, inputs: dict, **options) -> tuple[torch.Tensor, ...]:
    """The sequences and the stacked logits `[tokens, B, V]` of a short greedy generation."""
    settings = {"max_new_tokens": 4, "min_new_tokens": 4, "do_sample": False, **options}
    with torch.no_grad():
        out = model.generate(**inputs, **settings, output_logits=True, return_dict_in_generate=True)
    return out.sequences, torch.stack(out.logits)


def structure(model) -> dict:
    """Config, state-dict keys, hook counts and attribute names (with identities) of every module."""
    return {
        "config": model.config.to_json_string(use_diff=False),
        "implementations": [
            getattr(m.config, "_attn_implementation_internal", None) for m in model.modules() if hasattr(m, "config")
        ],
        "state": list(model.state_dict()),
        "hooks": {
            name: tuple(
                len(getattr(module, hooks))
                for hooks in ("_forward_pre_hooks", "_forward_hooks", "_backward_hooks", "_state_dict_hooks")
            )
            for name, module in model.named_modules()
        },
        "attributes": {
            name: {key: _identity(value) for key, value in module.__dict__.items()}
            for name, module in model.named_modules()
        },
        "forwards": {name: "forward" in module.__dict__ for name, module in model.named_modules()},
    }


def _identity(value: object) -> object:
    # Qwen-VL keeps a tensor of its last run; its values count, not the object.
    return value.tolist() if isinstance(value, torch.Tensor) else id(value)


def same(one: tuple[torch.Tensor, ...], two: tuple[torch.Tensor, ...]) -> bool:
    """Bit for bit; NaN in the same place counts as equal (padded rows of some families)."""
    return all(torch.equal(torch.nan_to_num(a, 7e8), torch.nan_to_num(b, 7e8)) for a, b in zip(one, two, strict=True))
