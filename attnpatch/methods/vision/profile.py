"""Profiles: what calibration found out about one model, as JSON that `attnpatch.apply(..., profile=FILE)` takes."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from attnpatch.patching.errors import AttnPatchError, UnsupportedModelError
from attnpatch.patching.saved import architecture

FORMAT = 1
AGAIN = "Make it with `attnpatch calibrate {method} MODEL --images DIR --output FILE`."


class Profile(BaseModel):
    """Options of a method that were measured on a model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: int = Field(FORMAT, description="version of this file's layout")
    method: str = Field(description="the method it is for")
    model: dict[str, Any] = Field(description="architecture of the text model that was measured")
    options: dict[str, Any] = Field(description="options that were found")
    details: dict[str, Any] = Field(default_factory=dict, description="what was measured, to look at")
    command: str | None = Field(None, description="the command that made it")
    versions: dict[str, str] = Field(default_factory=dict, description="versions it was made with")

    @classmethod
    def of(cls, method: str, config: object, options: Mapping[str, Any], command: str | None = None) -> Profile:
        """What `method` found on the model with this text config; `options` as its `calibrate` returned them."""
        rest = dict(options)
        details = rest.pop("details", {})
        versions = {name: metadata.version(name) for name in ("torch", "transformers")}
        return cls(
            method=method,
            model=architecture(config),
            options=rest,
            details=details,
            command=command,
            versions=versions,
        )

    def write(self, file: str | Path) -> Path:
        """Write it as JSON; returns the file. Folders above it are made."""
        file = Path(file)
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")
        return file

    def require(self, config: object, file: str) -> None:
        """Raise UnsupportedModelError unless this text config is of the architecture that was measured."""
        found = architecture(config)
        other = [
            f"{name} is {value!r}, not {self.model.get(name)!r}"
            for name, value in found.items()
            if value != self.model.get(name)
        ]
        if other:
            raise UnsupportedModelError(
                f"profile {file!r} was measured on another architecture than this model: {'; '.join(other)}. "
                + AGAIN.format(method=self.method)
            )


def read_profile(file: str, method: str) -> Profile:
    """The profile in `file`, which must be one of `method`.

    Raises AttnPatchError: it is not there, damaged, of a newer attnpatch, or of another method.
    """
    path, again = Path(file).expanduser(), AGAIN.format(method=method)
    try:
        profile = Profile.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise AttnPatchError(f"profile {file!r} does not exist. {again}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        what = f"{where}: {first['msg']}" if where else first["msg"]
        raise AttnPatchError(f"profile {file!r} cannot be read: {what}. {again}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise AttnPatchError(f"profile {file!r} cannot be read: {error}. {again}") from error
    if profile.format > FORMAT:
        raise AttnPatchError(
            f"profile {file!r} was made by a newer attnpatch (format {profile.format}, this one reads {FORMAT}); "
            "upgrade attnpatch."
        )
    if profile.method != method:
        raise AttnPatchError(
            f"profile {file!r} is for method {profile.method!r}, not for {method!r}. Make one for "
            f"{method!r}, if `attnpatch calibrate --help` names it, or leave profile out."
        )
    return profile
