"""Training rows: one image with its caption and a question about every shape, packed behind one another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from attnpatch.sandbox.vision import vocabulary as v
from attnpatch.sandbox.vision.drawing import GRID, MEAN, PATCH, PIXELS, STD
from attnpatch.sandbox.vision.model import IMAGE_TOKENS
from attnpatch.sandbox.vision.scenes import Scene, scenes

PREFIX = [v.ID[v.BOS], v.ID[v.USER], *[v.ID[v.IMAGE]] * IMAGE_TOKENS]
CAPTION, QUESTION = 1, 2
MOST_ROWS = 1024
_PLAIN = 0.25  # loss weight of the words of a caption that are neither colour nor shape nor the end


@dataclass
class Batch:
    """A step's rows.

    Attributes:
        pixel_values: [B, 3, 48, 48].
        input_ids, position_ids: [B, L].
        attention_mask: [B, 1, L, L], True where a token may look: the image, and back inside its own segment.
        labels: [B, L], the next word of every token that is trained, else -100.
        kinds: [B, L], CAPTION or QUESTION of those tokens, else 0.
        weights: [B, L], the loss weight.
        patches: what `patch_labels` gives.
    """

    pixel_values: torch.Tensor
    input_ids: torch.Tensor
    position_ids: torch.Tensor
    attention_mask: torch.Tensor
    labels: torch.Tensor
    kinds: torch.Tensor
    weights: torch.Tensor
    patches: tuple[torch.Tensor, torch.Tensor]


def pixel_values(batch: list[Scene]) -> torch.Tensor:
    """[B, 3, 48, 48], what the image processor makes of `scene.image`."""
    pixels = torch.from_numpy(np.stack([scene.pixels for scene in batch])).permute(0, 3, 1, 2)
    return ((pixels / 255 - MEAN) / STD).contiguous()


def patch_labels(batch: list[Scene]) -> tuple[torch.Tensor, torch.Tensor]:
    """The word for the shape and for the colour in the cell of every patch, [B, 36] each; `nothing` if it is empty."""
    shapes = np.full((len(batch), GRID, GRID), v.ID[v.NOTHING])
    colours = shapes.copy()
    for row, scene in enumerate(batch):
        for thing in scene.objects:
            place = (row, *divmod(thing.cell, GRID))
            shapes[place], colours[place] = v.ID[thing.shape], v.ID[thing.colour]
    side = PIXELS // PATCH // GRID
    spread = (np.repeat(np.repeat(grid, side, 1), side, 2).reshape(len(batch), -1) for grid in (shapes, colours))
    first, second = (torch.from_numpy(grid) for grid in spread)
    return first, second


def train_scenes(seed: int, step: int, rows: int) -> list[Scene]:
    """The scenes of a step, at most `MOST_ROWS`; no two steps share one."""
    return scenes("train", rows, seed=seed, start=step * MOST_ROWS)


def train_batch(seed: int, step: int, rows: int) -> Batch:
    """The rows of a step, each with its caption and six questions, one for every shape.

    A segment sees the image and itself and starts at the same position, as if it stood alone: one image serves seven
    prompts at the price of one.
    """
    rng = np.random.default_rng((seed, step, 7))
    chosen = train_scenes(seed, step, rows)
    packed = [_pack(_segments(scene, rng)) for scene in chosen]
    length = max(len(row[0]) for row in packed)
    fills = (v.ID[v.PAD], 0, -1, -100, 0, 0.0)
    columns = zip(zip(*packed, strict=True), fills, strict=True)
    tokens, positions, segments, labels, kinds, weights = (
        torch.tensor([values + [fill] * (length - len(values)) for values in column]) for column, fill in columns
    )
    causal = torch.ones(length, length, dtype=torch.bool).tril()
    seen = (segments[:, :, None] == segments[:, None, :]) | (segments[:, None, :] == 0)
    mask = (seen & causal)[:, None]
    return Batch(pixel_values(chosen), tokens, positions, mask, labels, kinds, weights, patch_labels(chosen))


def _segments(scene: Scene, rng: np.random.Generator) -> list[tuple[int, list[int], list[int]]]:
    """(kind, prompt, answer) of the caption and of six questions in random order, as token ids."""
    ending, turn = [v.ID[v.EOS]], [v.ID[v.ASSISTANT]]
    describe = v.DESCRIBE[rng.integers(len(v.DESCRIBE))]
    found = [(CAPTION, v.ids(describe) + turn, [v.ID[word] for word in scene.caption.split()] + ending)]
    for index in rng.permutation(len(v.SHAPES)):
        shape = v.SHAPES[index]
        ask = v.ASK[int(rng.random() < 0.25)]
        answer = v.ID["yes" if shape in scene.shapes else "no"]
        found.append((QUESTION, v.ids(ask.format(shape)) + turn, [answer, *ending]))
    return found


def _pack(segments) -> tuple[list, ...]:
    """Tokens, positions, segment numbers (0 is the image), labels, kinds and loss weights of one row."""
    tokens, size = list(PREFIX), len(PREFIX)
    positions, numbers = list(range(size)), [0] * size
    labels, kinds, weights = [-100] * size, [0] * size, [0.0] * size
    for number, (kind, prompt, answer) in enumerate(segments, 1):
        words = prompt + answer
        tokens += words[:-1]
        positions += range(size, size + len(words) - 1)
        numbers += [number] * (len(words) - 1)
        trained = [-100] * (len(prompt) - 1) + answer
        labels += trained
        kinds += [kind if label >= 0 else 0 for label in trained]
        weights += [0.0 if label < 0 else 1.0 if label in _TELLING else _PLAIN for label in trained]
    return tokens, positions, numbers, labels, kinds, weights


_TELLING = {v.ID[word] for word in (*v.COLOURS, *v.SHAPES, "yes", "no", ".", ",")}
