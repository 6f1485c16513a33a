"""stock: the identity. It installs everything and changes nothing; the yardstick of every comparison."""

from __future__ import annotations

from attnpatch.patching.method import Method, register


@register("stock")
class Stock(Method):
    """Attention as the checkpoint computes it, seen through the patch: same bits, with counters."""

    summary = "the identity: the model's own attention, counted"
    paper = "none"
    neutral = "always"
    limits = "changes nothing"
    compilable = True

    def attend(self, call, inner):
        return inner(call)
