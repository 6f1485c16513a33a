"""Patch: methods installed in a model, and the way back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from attnpatch.patching.budget import SiteStats, mean_keys
from attnpatch.patching.errors import AttnPatchError, UnsupportedModelError
from attnpatch.patching.forward import PackedSample
from attnpatch.patching.images import declared
from attnpatch.patching.install import Installation
from attnpatch.patching.method import Method
from attnpatch.patching.report import Report, describe_site, sparse_share
from attnpatch.patching.saved import save
from attnpatch.patching.sites import Site


class Patch:
    """What `attnpatch.apply()` returns. Also a context manager that removes itself.

    Attributes:
        methods: the installed methods, innermost first.
        enabled: False inside `disabled()`.
    """

    def __init__(
        self,
        installation: Installation,
        model_class: str,
        placed: list[tuple[Method, list[Site]]],
        skipped: list[dict[str, str]],
    ) -> None:
        self._installation = installation
        self._model_class = model_class
        self._skipped = skipped
        self._placed = [(method, [(site, SiteStats()) for site in sites]) for method, sites in placed]
        self.methods = [method for method, _ in placed]
        self.enabled = True

    @property
    def active(self) -> bool:
        """True until `remove()`."""
        return self in self._installation.patches

    @property
    def site_names(self) -> set[str]:
        return {site.name for _, sites in self._placed for site, _ in sites}

    def placements(self) -> Iterator[tuple[Method, str, SiteStats]]:
        """Every (method, site name, counters), innermost method first."""
        for method, sites in self._placed:
            for site, stats in sites:
                yield method, site.name, stats

    def remove(self) -> None:
        """Restore the model bit for bit. Safe to call twice, and in any order among several patches."""
        self._installation.remove(self)

    def __enter__(self) -> Patch:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()

    @contextmanager
    def disabled(self) -> Iterator[Patch]:
        """Run the model as if this patch were not there, for the length of a `with` block."""
        before, self.enabled = self.enabled, False
        self._rebuild()
        try:
            yield self
        finally:
            self.enabled = before
            self._rebuild()

    def _rebuild(self) -> None:
        if self.active:
            self._installation.rebuild()

    @contextmanager
    def prompt(self, length: int) -> Iterator[Patch]:
        """Declare where the prompt ends, in tokens including padding, for the length of a `with` block.

        Needed by methods that treat prompt and generated tokens differently when one forward does not hold exactly
        the prompt: chunked prefill, assisted decoding, prompt lookup, `use_cache=False`, a second chat turn.
        Raises AttnPatchError for a length that is not a positive integer.
        """
        if not isinstance(length, int) or isinstance(length, bool) or length < 1:
            raise AttnPatchError(f"prompt length must be a positive number of tokens, got {length!r}.")
        before, self._installation.declared_prompt = self._installation.declared_prompt, length
        try:
            yield self
        finally:
            self._installation.declared_prompt = before

    @contextmanager
    def images(self, mask: torch.Tensor) -> Iterator[Patch]:
        """Declare which tokens of the prompt stand for images, for the length of a `with` block.

        Needed where the model is given embeddings that already hold the images. mask: bool `[B, T]`. Raises
        AttnPatchError for anything else.
        """
        before, self._installation.declared_images = self._installation.declared_images, declared(mask)
        try:
            yield self
        finally:
            self._installation.declared_images = before

    @contextmanager
    def packed(self, lengths: Sequence[int], prompts: Sequence[int] | None = None) -> Iterator[Patch]:
        """Declare that the row holds several samples one behind the other, for the length of a `with` block.

        Every sample is then computed by itself, as if it were alone: `model(input_ids=[1, N], position_ids=...,
        use_cache=False)`, with position_ids that start at 0 with each sample. For training.

        Args:
            lengths: tokens of each sample, N in all.
            prompts: how many tokens of each sample are its prompt; all of them if None.

        Raises AttnPatchError for numbers that do not fit together, and UnsupportedModelError where layers that no
        method reaches would mix the samples.
        """
        if self._installation.beyond:
            name, reason = self._installation.beyond[0]
            raise UnsupportedModelError(
                f"samples cannot share a row of {self._model_class}: {name} {reason}, and would mix them. Run each by "
                "itself."
            )
        prompts = list(lengths) if prompts is None else list(prompts)
        fitting = len(prompts) == len(lengths) > 0
        if not fitting or not all(0 < prompt <= tokens for prompt, tokens in zip(prompts, lengths, strict=True)):
            raise AttnPatchError(
                f"packed() takes one prompt of 1 to all tokens per sample, got lengths={list(lengths)!r} and "
                f"prompts={prompts!r}."
            )
        samples, start = [], 0
        for tokens, prompt in zip(lengths, prompts, strict=True):
            samples.append(PackedSample(start, tokens, prompt))
            start += tokens
        before, self._installation.declared_samples = self._installation.declared_samples, tuple(samples)
        try:
            yield self
        finally:
            self._installation.declared_samples = before

    def save_pretrained(self, folder: str | Path, *, card: str | None = None) -> Path:
        """Write the trained method into `folder`: config, safetensors and a model card; `attnpatch.load` reads it.

        card: the text of the model card, a plain one if None. Raises AttnPatchError if none of the patch's methods, or
        more than one, was trained.
        """
        trained = [method for method in self.methods if method.trained is not None]
        if len(trained) != 1:
            names = ", ".join(method.name for method in trained) or "none"
            raise AttnPatchError(f"save_pretrained takes a patch with one trained method, this one has {names}.")
        return save(trained[0], self._installation.base.config, folder, card=card)

    def push_to_hub(
        self, repo_id: str, *, private: bool | None = None, card: str | None = None, **options: Any
    ) -> str:
        """Upload what `save_pretrained` writes to the Hub; returns the commit's address.

        options: further arguments of `huggingface_hub.HfApi.upload_folder`, such as token or commit_message.
        """
        from huggingface_hub import HfApi

        api = HfApi(token=options.pop("token", None))
        with TemporaryDirectory() as folder:
            self.save_pretrained(folder, card=card)
            api.create_repo(repo_id, private=private, exist_ok=True)
            return str(api.upload_folder(repo_id=repo_id, folder_path=folder, **options))

    def renumber(self, sequence: int) -> None:
        """Give the next sequence this number, from which its seeds follow, and go on counting from there."""
        self._installation.sequences = sequence

    def reset(self, sequence: int = 0) -> None:
        """Set the counters to zero and start the numbering of sequences (seeds) anew, at `sequence`."""
        self.renumber(sequence)
        for _, _, stats in self.placements():
            stats.reset()

    def report(self) -> Report:
        """What is patched, what is skipped and why, how often each site ran, on which backend, at which budget."""
        stats = [stats for _, _, stats in self.placements()]
        prefill, decode = mean_keys(stats)
        sites = [
            describe_site(method.name, site, counters) for method, sites in self._placed for site, counters in sites
        ]
        notes = []
        if not self.active:
            notes.append("removed: the model is stock again")
        elif not any(site.calls for site in sites):
            notes.append("no call seen yet: run the model")
        share = sparse_share(sites)
        if share is not None:
            notes.append(f"{share:.0%} of the routed layers were sparse (omega {share:.3f})")
        saved = sum(site.cache_bytes_saved for site in sites)
        if saved:
            notes.append(f"eviction keeps {saved / 2**20:,.2f} MiB out of the cache, as of the last call")
        elif any(method.evicts for method in self.methods):
            notes.append("evict=True has dropped nothing: all tokens so far are in reach, or layers limit their cache")
        return Report(
            model=self._model_class,
            methods=[
                {"name": method.name, "config": method.config.model_dump(mode="json")} for method in self.methods
            ],
            active=self.active,
            sites=sites,
            skipped=list(self._skipped),
            mean_keys=prefill,
            decode_mean_keys=decode,
            notes=notes,
        )

    def __repr__(self) -> str:
        methods = " + ".join(map(repr, self.methods))
        state = "" if self.active else ", removed"
        state += "" if self.enabled else ", disabled"
        calls = sum(stats.calls for _, _, stats in self.placements())
        return (
            f"<attnpatch.Patch {methods} in {self._model_class}: {len(self.site_names)} sites, "
            f"{len(self._skipped)} skipped, {calls} calls{state}>"
        )
