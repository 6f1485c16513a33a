"""Benchmarks: what the kernels, whole models and the patch itself cost, each beside stock attention."""
