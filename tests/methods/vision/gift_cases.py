"""GIFT written out in float64, loop by loop, and a tokenizer of a few words for prompts of the tiny models."""

from __future__ import annotations

import torch

from tests.methods.vision.dense import Dense
from tests.methods.vision.prompts import IMAGE

WORDS = {
    5: "is",
    6: "there",
    7: "a",
    8: "red",
    9: "circle",
    10: "?",
    11: "the",
    12: "blue",
    13: "box",
    14: "it",
    15: "on",
}
CONTENT = {8, 9, 12, 13}


class Tokenizer:
    """Every token is a word of its own."""

    all_special_ids = (0, 1, 2)
    name_or_path = "few-words"

    def decode(self, ids: list[int], **_: object) -> str:
        return " ".join(WORDS[token] for token in ids)


def sets_of(ids: torch.Tensor, padding: torch.Tensor) -> list[dict[str, list[int]]]:
    """Image, question and content tokens of every prompt, for prompts that end with their question."""
    found = []
    for row, real in zip(ids.tolist(), padding.tolist(), strict=True):
        image = [index for index, token in enumerate(row) if token == IMAGE]
        behind = range(image[-1] + 1, len(row)) if image else []
        question = [index for index in behind if real[index] and row[index] in WORDS]
        content = [index for index in question if row[index] in CONTENT]
        found.append({"image": image, "question": question, "content": content or question})
    return found


def factors(weights: torch.Tensor, sets: list[dict[str, list[int]]], alpha: float) -> list[dict[int, float]]:
    """w by image token of every prompt, from the weights `[B, H, Q, K]` of the saliency layer."""
    found = []
    for row, own in zip(weights, sets, strict=True):
        if not own["image"]:
            found.append({})
            continue
        jumps = torch.stack([(row[:, i] - row[:, i - 1]).clamp(min=0)[:, own["image"]] for i in own["content"]], 1)
        heads = jumps.sum((1, 2)).argsort(descending=True)[: row.shape[0] // 2]
        s = jumps[heads].mean((0, 1))
        mean, deviation = s.mean(), s.std(correction=0)
        s = s.clamp(mean - 3 * deviation, mean + 3 * deviation)
        s = (s - s.min()) / (s.max() - s.min())
        found.append(dict(zip(own["image"], (alpha * s).exp().tolist(), strict=True)))
    return found


def record(at: int, into: dict[str, torch.Tensor]) -> Dense:
    """Stock attention; the weights of layer `at` are left in `into["weights"]`."""

    def change(scores, call):
        weights = scores.softmax(-1)
        if call.layer == at and not call.offset:
            into["weights"] = weights
        return weights

    return Dense(change)


def enhance(layers: tuple[int, ...], sets: list[dict], w: list[dict[int, float]], beta: float = 1.0) -> Dense:
    """Stage B in the last row of every call."""

    def change(scores, call):
        weights = scores.softmax(-1)
        if call.layer not in layers:
            return weights
        new = weights.clone()
        for row, (own, factor) in enumerate(zip(sets, w, strict=True)):
            if not own["image"]:
                continue
            last = weights[row, :, -1]
            image = [j - call.key_offset for j in own["image"] if j >= call.key_offset]
            question = [j - call.key_offset for j in own["question"] if j >= call.key_offset]
            half = last.shape[0] // 2
            image_heads = last[:, image].sum(1).argsort(descending=True)[:half].tolist()
            question_heads = last[:, question].sum(1).argsort(descending=True)[:half].tolist()
            edited = last.clone()
            for j in image:
                edited[image_heads, j] *= factor[j + call.key_offset]
            before, after = last[image_heads][:, image].sum(), edited[image_heads][:, image].sum()
            r = after / before if before else 1.0
            for j in question:
                edited[question_heads, j] *= beta * r
            new[row, :, -1] = edited / edited.sum(1, keepdim=True)
        return new

    return Dense(change)
