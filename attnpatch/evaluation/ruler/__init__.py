"""Our own RULER (arXiv 2404.06654): NVIDIA's 13 tasks, templates, sizes and metrics, for any length and tokenizer.

Every sample has a random stream of its own, so that neither the order of building nor the number of samples changes
it; a length that does not work raises an error that names the one that does.
"""
