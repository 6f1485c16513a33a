"""Where the recipes and the evaluations that ship with attnpatch lie on disk."""

from __future__ import annotations

from pathlib import Path

FOLDERS = ("recipes", "evals")


def data_path(folder: str) -> Path:
    """Return the path of `folder`, which is "recipes" or "evals".

    In an installed wheel both lie inside the package, under `attnpatch/_data`; in a checkout (and so in an
    editable install) they lie at the top of the repository.

    Raises:
        ValueError: `folder` is neither of the two.
        FileNotFoundError: the folder is missing from this installation.
    """
    if folder not in FOLDERS:
        raise ValueError(f"folder must be one of {', '.join(map(repr, FOLDERS))}, got {folder!r}.")
    package = Path(__file__).resolve().parent
    installed = package / "_data" / folder
    if installed.is_dir():
        return installed
    # site-packages may hold someone else's "evals": only a checkout has pyproject.toml beside the package.
    checkout = package.parent
    if (checkout / "pyproject.toml").is_file() and (checkout / folder).is_dir():
        return checkout / folder
    raise FileNotFoundError(
        f"attnpatch's {folder!r} folder is neither at {installed} nor at {checkout / folder}. "
        "Reinstall attnpatch from its wheel, or run from a complete checkout."
    )


def data_file(name: str) -> Path:
    """The file `name`: a path, or one that ships with attnpatch, such as `evals/prompts/sandbox.jsonl`."""
    path = Path(name).expanduser()
    folder, _, rest = name.partition("/")
    if not path.exists() and folder in FOLDERS:
        return data_path(folder) / rest
    return path
