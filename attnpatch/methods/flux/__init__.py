"""flux: every layer is routed to full attention or to a sparse arm, prompt by prompt. arXiv 2604.07394."""

from attnpatch.methods.flux.config import FluxConfig
from attnpatch.methods.flux.method import Flux
from attnpatch.methods.flux.router import Router, Routers, Shape

__all__ = ["Flux", "FluxConfig", "Router", "Routers", "Shape"]
