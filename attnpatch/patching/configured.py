"""What everything with options from a paper shares: its facts, and a config in which every problem is one error."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from attnpatch.patching.errors import AttnPatchError, did_you_mean

TextOnly = Annotated[  # an option of everything that is about images; its default is "error"
    Literal["error", "stock"],
    Field(description="a batch without any image: refuse it, or let it through untouched"),
]


class Config(BaseModel):
    """Base of all options: frozen, no unknown keys, each field with a description."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Configured:
    """An idea from a paper with options: a method, or a companion of decoding."""

    kind: ClassVar[str] = ""  # what error messages call it
    help: ClassVar[str] = "See `attnpatch show {name}`."  # where they send the reader
    name: ClassVar[str] = ""
    Config: ClassVar[type[Config]] = Config
    summary: ClassVar[str] = ""  # one sentence for `attnpatch list`
    paper: ClassVar[str] = ""  # title and arXiv id
    neutral: ClassVar[str] = ""  # the setting at which the model does what it does without it
    limits: ClassVar[str] = ""  # what it does not do
    evidence: ClassVar[str] = ""  # what of the paper is reproduced, what only runs, what others could not reproduce
    released: ClassVar[dict[str, str]] = {}  # where the authors' code differs from the paper: ours, theirs
    neutral_options: ClassVar[dict[str, Any]] = {}  # that setting, for any prompt a test would use
    example_options: ClassVar[dict[str, Any]] = {}  # for help pages, where the defaults alone are no example
    small_options: ClassVar[tuple[dict[str, Any], ...]] = ({},)  # settings that act on a prompt of a dozen tokens

    def __init__(self, config: Config | None = None, **options: Any) -> None:
        if config is not None and options:
            raise AttnPatchError(f"{self.name}: give either a config or options, not both.")
        if config is not None and not isinstance(config, self.Config):
            raise TypeError(f"{self.name}: config must be a {self.Config.__name__}, got {type(config).__name__}.")
        self.config = config if config is not None else build_config(type(self), options)

    @classmethod
    def filled(cls, options: dict[str, Any]) -> dict[str, Any]:
        """The options to build the config from; a method may add what a file named by one of them holds."""
        return options

    def __repr__(self) -> str:
        options = ", ".join(f"{key}={value!r}" for key, value in self.config.model_dump().items())
        return f"{self.name}({options})"


def build_config(cls: type[Configured], options: dict[str, Any], *, from_text: bool = False) -> Config:
    """Validate `options` into the config of `cls`; every problem becomes one readable error.

    With `from_text` the values are strings (command line) and are converted to each field's type.
    """
    try:
        if from_text:
            options = cls.Config.model_validate_strings(options).model_dump(exclude_unset=True)
        return cls.Config(**cls.filled(options))
    except ValidationError as error:
        raise AttnPatchError(_explain(cls, error)) from None


def _explain(cls: type[Configured], error: ValidationError) -> str:
    fields = cls.Config.model_fields
    lines = []
    for problem in error.errors():
        path = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            allowed = ", ".join(fields) or "(it has no options)"
            lines.append(f"unknown option {path!r}.{did_you_mean(path, fields)} Allowed: {allowed}.")
        elif problem["type"] == "missing":
            field = fields.get(path)
            meaning = f": {field.description}" if field is not None and field.description else ""
            lines.append(f"option {path} must be given{meaning}.")
        elif path:
            message = problem["msg"].removeprefix("Value error, ")
            lines.append(f"option {path}={problem.get('input')!r}: {message}.")
        else:
            lines.append(problem["msg"].removeprefix("Value error, "))
    return f"{cls.kind} {cls.name!r}: {' '.join(lines)} {cls.help.format(name=cls.name)}"
