"""The decoding loop of sgrs: sample, score by saliency, accept or reject."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from transformers.generation import GenerateDecoderOnlyOutput

from attnpatch.decoding.continuation import Continuation
from attnpatch.decoding.saliency import SaliencyRecorder
from attnpatch.patching.apply import apply
from attnpatch.patching.errors import UnsupportedCallError
from attnpatch.patching.sites import inspect_model

if TYPE_CHECKING:
    from attnpatch.decoding.sgrs import SGRSConfig

PUBLISHED_LAYERS, PUBLISHED_DEPTH = (6, 7, 8), 32  # of LLaVA-1.5-7B


class RejectionLoop:
    """What `generate(custom_generate=...)` calls. first: index of the first token whose saliency counts."""

    def __init__(self, config: SGRSConfig, first: int) -> None:
        self.config = config
        self.first = first
        self.accepted: list[float] = []  # scores of the tokens so far
        self.rejected = 0  # tokens that were sampled and turned down

    def __call__(
        self, model, input_ids, logits_processor, stopping_criteria, generation_config, **arguments: Any
    ) -> torch.Tensor | GenerateDecoderOnlyOutput:
        """The sequence `[1, T]`, or transformers' output with it. Raises UnsupportedCallError for several rows."""
        if len(input_ids) != 1:
            raise UnsupportedCallError(
                f"companion 'sgrs' writes one sequence at a time, got {len(input_ids)} rows; run prompts one by one, "
                "without num_beams and num_return_sequences."
            )
        layers = self.config.layers if self.config.layers is not None else default_layers(inspect_model(model).layers)
        recorder = SaliencyRecorder()
        # Tensors made in inference mode know no gradient, so none of them may enter the graph.
        with torch.inference_mode(False), torch.no_grad(), apply(model, recorder, layers=layers):
            fresh = {name: v.clone() if isinstance(v, torch.Tensor) else v for name, v in arguments.items()}
            run = Continuation(model, input_ids.clone(), fresh)
            steps = self._write(run, recorder, logits_processor, stopping_criteria)
        if not generation_config.return_dict_in_generate:
            return steps["sequences"]
        asked = {"scores": generation_config.output_scores, "logits": generation_config.output_logits}
        kept = {name: tuple(steps[name]) for name, wanted in asked.items() if wanted}
        return GenerateDecoderOnlyOutput(sequences=steps["sequences"], past_key_values=run.cache, **kept)

    def _write(self, run: Continuation, recorder: SaliencyRecorder, processors, criteria) -> dict[str, Any]:
        written: dict[str, Any] = {"scores": [], "logits": []}
        logits, score = run.prompt(), None  # the first token follows no output, and so does the second
        while True:
            scores = processors(run.input_ids, logits.detach().clone())
            written["scores"].append(scores)
            written["logits"].append(logits.detach())
            token = self._choose(scores, score)
            recorder.forget()
            written["sequences"] = torch.cat([run.input_ids, token], 1)
            if bool(criteria(written["sequences"], None).all()):
                return written
            logits, score = self._next(run, token[:, 0], recorder)

    def _next(
        self, run: Continuation, token: torch.Tensor, recorder: SaliencyRecorder
    ) -> tuple[torch.Tensor, Callable[[int], float] | None]:
        """The logits behind `token`, and what scores candidates; None where no earlier output could be salient."""
        last = run.input_ids.shape[1]  # index of `token`, whose row predicts the next one
        if last <= self.first:
            return run.feed(token), None
        if self.config.norm == "row":
            with recorder.recording():
                logits = run.feed(token)
            _detach(run.cache)
            scored = logits
        else:
            logits = run.feed(token)
            with recorder.recording():
                scored = run.whole()
        return logits, lambda candidate: recorder.score(candidate, scored, self.first, last, self.config.norm)

    def _choose(self, scores: torch.Tensor, score: Callable[[int], float] | None) -> torch.Tensor:
        """A token `[1, 1]` for the scores `[1, V]`, in which all but the candidates are -inf."""
        if score is None:
            return torch.multinomial(scores.softmax(-1), 1)
        recent = self.accepted[-self.config.window :]
        threshold = self.config.alpha * sum(recent) / len(recent) if recent else 0.0
        known: dict[int, float] = {}
        left = scores.clone()
        candidates = [int(token) for token in scores[0].argsort(descending=True) if scores[0, token] > -torch.inf]
        for _ in range(min(self.config.tries, len(candidates))):
            token = torch.multinomial(left.softmax(-1), 1)
            known[int(token)] = score(int(token))
            if known[int(token)] >= threshold:
                self.accepted.append(known[int(token)])
                return token
            self.rejected += 1
            left[0, token] = -torch.inf
        for token in candidates:
            if token not in known:
                known[token] = score(token)
        best = max(candidates, key=known.__getitem__)
        self.accepted.append(known[best])
        return scores.new_tensor([[best]], dtype=torch.long)


def default_layers(layers: int) -> list[int]:
    """The layers 6, 7 and 8 of 32, or those at the same share of another depth."""
    return sorted({layer * layers // PUBLISHED_DEPTH for layer in PUBLISHED_LAYERS})


def _detach(cache: Any) -> None:
    """Keep the graph of this step out of the next one."""
    for layer in cache.layers:
        for name, value in vars(layer).items():
            if isinstance(value, torch.Tensor) and value.requires_grad:
                setattr(layer, name, value.detach())
