"""What a method does to accuracy, speed and memory: cells in, tables and plots out.

>>> results = evaluate(model, tokenizer, methods=["sliding:window=256"], tasks=["needle"], lengths=[1024])
>>> print(results.to_markdown())
"""

from attnpatch.evaluation.errors import LoadingError, UsageError
from attnpatch.evaluation.evaluate import evaluate, prepare
from attnpatch.evaluation.results import Results

__all__ = ["LoadingError", "Results", "UsageError", "evaluate", "prepare"]
