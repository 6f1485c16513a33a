"""`attnpatch-lm-eval`: lm-eval's own command line, with `--model attnpatch`."""

from __future__ import annotations

import sys

from rich.console import Console

from attnpatch.patching.errors import AttnPatchError


def main() -> None:
    """Register our model type, then hand over to lm-eval; its arguments and files are its own.

    Exit codes: lm-eval's; 1 if it is not installed, 2 for a method or option that does not exist.
    """
    from attnpatch.evaluation.lm_eval import register

    try:
        register()
        from lm_eval.__main__ import cli_evaluate

        cli_evaluate()
    except AttnPatchError as error:
        _fail(error, 2)
    except ImportError as error:
        _fail(error, 1)


def _fail(error: Exception, code: int) -> None:
    Console(stderr=True).print(f"error: {error}", markup=False, highlight=False, soft_wrap=True)
    sys.exit(code)


if __name__ == "__main__":
    main()
