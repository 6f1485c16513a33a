"""Merging attention over disjoint sets of keys by their log-sum-exp."""

from __future__ import annotations

import torch


def merge(
    first: tuple[torch.Tensor, torch.Tensor], second: tuple[torch.Tensor, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Two (output [..., Dv], lse [...]) pairs over disjoint keys, as one. An lse of -inf means no keys.

    Empty rows must carry -inf, not the 0 that torch's CPU flash operator returns for them.
    """
    (out1, lse1), (out2, lse2) = first, second
    share = torch.sigmoid(lse2 - lse1).masked_fill(torch.isneginf(lse2), 0)
    output = (
        torch.lerp(out1.float(), out2.float(), share.float().unsqueeze(-1))
        if _half(out1)
        else torch.lerp(out1, out2, share.to(out1.dtype).unsqueeze(-1))
    )
    return output.to(out1.dtype), torch.logaddexp(lse1, lse2)


def add_sink_logits(
    output: torch.Tensor, lse: torch.Tensor, sink_logits: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """One more softmax column per head, with a learned logit [H] and no value (GPT-OSS).

    output: [B, H, Q, Dv]; lse: [B, H, Q].
    """
    sink = sink_logits.to(lse.dtype)[:, None]
    share = torch.sigmoid(lse - sink).unsqueeze(-1)
    return (output * share).to(output.dtype), torch.logaddexp(lse, sink.expand_as(lse))


def _half(x: torch.Tensor) -> bool:
    return x.dtype in (torch.float16, torch.bfloat16)
