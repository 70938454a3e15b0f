"""The settings: one frozen model from the environment, read once when the program starts.

Only ``server``, ``cli``, ``demo`` and ``doctor`` see it; whatever lies below is given plain
values. Every variable is named ``INFERENCE_MCP_…`` save the two that belong to LocalAI; one
that is unknown is an error, for a misspelled limit that silently does nothing is worse than a
server that says so and stops. An empty value counts as not set, and so does the placeholder of
a bundle's option (``${user_config.name}``): hosts hand over the one or the other where their
user left an option out.
"""

from __future__ import annotations

import base64
import difflib
import math
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import unquote, urlsplit, urlunsplit

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)

from inference_mcp.errors import SettingsError
from inference_mcp.requests import RequestType

__all__ = ["PREFIX", "Settings", "load_settings"]

PREFIX = "INFERENCE_MCP_"

_PositiveInt = Annotated[int, Field(ge=1)]
_Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Names = Annotated[tuple[str, ...], NoDecode]
_Paths = Annotated[tuple[Path, ...], NoDecode]

_LEFT_OUT = re.compile(r"\s*(?:\$\{user_config\.[^{}]*\}\s*)?")
"""What a host hands over for an option that its user left out."""

_SLOTS = re.compile(r"[1-9][0-9]{0,5}")


class Settings(BaseSettings):
    """Everything that a user can set; defaults with their unit and reason."""

    model_config = SettingsConfigDict(
        frozen=True,
        env_prefix=PREFIX,
        env_ignore_empty=True,
        extra="ignore",
        hide_input_in_errors=True,
    )

    localai_url: str = Field("http://localhost:8080", validation_alias="LOCALAI_URL", repr=False)
    """LocalAI's base URL; 8080 is its own default port."""
    localai_api_key: SecretStr | None = Field(None, validation_alias="LOCALAI_API_KEY")
    """Sent as a bearer token; never logged, shown or written."""

    txt2txt_model: str | None = None
    txt2img_model: str | None = None
    img2img_model: str | None = None
    img2txt_model: str | None = None
    """The default model of each type."""
    txt2txt_models: _Names = ()
    txt2img_models: _Names = ()
    img2img_models: _Names = ()
    img2txt_models: _Names = ()
    """The model set of a type, for models whose abilities LocalAI cannot tell."""

    max_concurrency: _PositiveInt = 1
    """Requests at LocalAI at once: one GPU does one thing well."""
    model_concurrency: Annotated[dict[str, int], NoDecode] = Field(default_factory=dict)
    """The slots of each model that has more than one."""
    max_queue: _PositiveInt = 256
    """Waiting requests; about a day of pictures, and a bound on memory."""
    timeout_s: _Seconds = 900
    """From submission to result: a slow picture behind a long queue on a small GPU."""
    wait_s: Annotated[float, Field(ge=1, le=3600, allow_inf_nan=False)] = 40
    """How long a tool call waits before it answers with a job id: the strictest hosts give up
    at 60 s, and what comes later is dropped."""

    max_resident_models: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    preemption: Literal["type", "class", "off"] = "type"
    overdue_normal_s: _Seconds = 60
    overdue_batch_s: _Seconds = 300
    max_attempts: _PositiveInt = 3
    load_timeout_s: _Seconds = 600
    share: Literal["auto", "off"] = "auto"

    output_dir: Path | None = None
    """Where pictures are kept; ``None`` is ``inference-mcp`` in the user's pictures folder."""
    input_roots: _Paths = ()
    """Folders from which a tool may read a picture; empty means the default ones."""
    preview: Literal["thumb", "none", "full"] = "thumb"
    result_ttl_s: _Seconds = 3600
    """How long a finished job's result can be asked for."""

    log_level: Literal["debug", "info", "warning", "error", "critical"] = "info"
    log_file: Path | None = None

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Nothing is read by itself: ``load_settings`` gives what one environment holds.

        A ``.env`` of wherever a host starts us must not count.
        """
        return (init_settings,)

    @field_validator("localai_url")
    @classmethod
    def _is_http_url(cls, value: str) -> str:
        try:
            parts = urlsplit(value)
            usable = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
        except ValueError:  # a port out of range, a broken IPv6 address
            usable = False
        # urlsplit drops line breaks and takes spaces for a part of the host's name.
        usable = usable and value.isprintable() and " " not in value
        if not usable:
            raise ValueError("takes an http:// or https:// URL")
        return value

    @field_validator("localai_api_key")
    @classmethod
    def _fits_a_header(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not all("!" <= c <= "~" for c in value.get_secret_value()):
            raise ValueError("takes a key of visible ASCII characters without spaces")
        return value

    @field_validator(
        "txt2txt_models", "txt2img_models", "img2img_models", "img2txt_models", mode="before"
    )
    @classmethod
    def _split_names(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(name.strip() for name in value.split(",") if name.strip())
        return value

    @field_validator("model_concurrency", mode="before")
    @classmethod
    def _split_slots(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        slots: dict[str, int] = {}
        for part in filter(None, (piece.strip() for piece in value.split(","))):
            name, _, number = (piece.strip() for piece in part.rpartition("="))
            if not name or not _SLOTS.fullmatch(number):
                raise ValueError("takes model=slots pairs such as qwen3-8b=4,flux-dev=1")
            slots[name] = int(number)
        return slots

    @field_validator("input_roots", mode="before")
    @classmethod
    def _split_paths(cls, value: Any) -> Any:
        if isinstance(value, str):
            return tuple(Path(part.strip()) for part in value.split(os.pathsep) if part.strip())
        return value

    @field_validator("input_roots")
    @classmethod
    def _all_absolute(cls, value: tuple[Path, ...]) -> tuple[Path, ...]:
        paths = tuple(_without_tilde(path) for path in value)
        if not all(path.is_absolute() for path in paths):
            raise ValueError(f"takes absolute folders separated by {os.pathsep!r}")
        return paths

    @field_validator("output_dir", "log_file")
    @classmethod
    def _is_absolute(cls, value: Path | None) -> Path | None:
        path = None if value is None else _without_tilde(value)
        if path is not None and not path.is_absolute():
            raise ValueError("takes an absolute path")
        return path

    # --- what follows from them ---------------------------------------------------------

    @property
    def base_url(self) -> str:
        """LocalAI's URL without credentials, query, a trailing ``/`` or ``/v1``."""
        parts = urlsplit(self.localai_url)
        host = parts.netloc.rpartition("@")[2]
        path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
        return urlunsplit((parts.scheme, host, path, "", ""))

    @property
    def authorization(self) -> str | None:
        """The Authorization header: the key, else credentials in the URL, else none."""
        if self.localai_api_key is not None:
            return f"Bearer {self.localai_api_key.get_secret_value()}"
        parts = urlsplit(self.localai_url)
        if parts.username is None:
            return None
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        return "Basic " + base64.b64encode(pair.encode()).decode()

    @property
    def default_models(self) -> Mapping[RequestType, str]:
        """The default model of each type that has one."""
        named = {kind: getattr(self, f"{kind.value}_model") for kind in RequestType}
        return {kind: name for kind, name in named.items() if name}

    @property
    def model_sets(self) -> Mapping[RequestType, tuple[str, ...]]:
        """The model set of each type that has one."""
        named = {kind: getattr(self, f"{kind.value}_models") for kind in RequestType}
        return {kind: names for kind, names in named.items() if names}

    @property
    def output_folder(self) -> Path:
        """Where pictures are kept."""
        if self.output_dir is not None:
            return self.output_dir
        import platformdirs  # here, for only a default needs it

        return Path(platformdirs.user_pictures_dir()) / "inference-mcp"

    @property
    def input_folders(self) -> tuple[Path, ...]:
        """The folders from which a picture may be read."""
        if self.input_roots:
            return self.input_roots
        import platformdirs

        return (
            self.output_folder,
            Path(platformdirs.user_pictures_dir()),
            Path(platformdirs.user_downloads_dir()),
            Path(platformdirs.user_desktop_dir()),
            Path(tempfile.gettempdir()),
        )


def load_settings(environ: Mapping[str, str] | None = None) -> Settings:
    """The settings of this environment (``os.environ`` unless another is given).

    Raises:
        SettingsError: a variable is unknown or its value unusable; one line.
    """
    env = dict(os.environ if environ is None else environ)
    for name in sorted(env):
        if name.upper().startswith(PREFIX):
            _check_known(name)
    try:
        return Settings.model_validate(_from(env))
    except ValidationError as error:
        raise SettingsError(_first_line(error)) from None


def _check_known(variable: str) -> None:
    fields = [name for name in Settings.model_fields if not name.startswith("localai_")]
    name = variable.upper().removeprefix(PREFIX)
    if name.lower() in fields:
        return
    if name in ("LOCALAI_URL", "LOCALAI_API_KEY"):
        meant = name
    else:
        nearest = difflib.get_close_matches(name, [each.upper() for each in fields], 1, 0.0)
        meant = PREFIX + nearest[0]
    shown = variable if variable.isprintable() else ascii(variable)
    raise SettingsError(f"{shown} is not a setting. Did you mean {meant}?")


def _from(env: Mapping[str, str]) -> dict[str, Any]:
    """The values by field alias, as pydantic-settings reads them from the environment."""
    source = EnvSettingsSource(Settings, env_ignore_empty=True)
    given = {name: value for name, value in env.items() if not _LEFT_OUT.fullmatch(value)}
    source.env_vars = {name.lower(): value.strip() for name, value in given.items()}
    return source()


def _first_line(error: ValidationError) -> str:
    """The first problem as one line that names the variable and what it takes."""
    problem = error.errors(include_url=False, include_input=False)[0]
    name = str(problem["loc"][0]) if problem["loc"] else "?"
    variable = name if name.isupper() else PREFIX + name.upper()
    context = problem.get("ctx", {})
    match problem["type"]:
        case "value_error":
            wants = str(context.get("error", problem["msg"]))
        case "literal_error":
            wants = f"takes {context['expected']}"
        case "int_parsing" | "int_parsing_size" | "int_from_float":
            wants = "takes a whole number"
        case "float_parsing" | "finite_number":
            wants = "takes a number"
        case "greater_than_equal":
            wants = f"takes {_plain(context['ge'])} or more"
        case "less_than_equal":
            wants = f"takes {_plain(context['le'])} or less"
        case "greater_than":
            wants = f"takes more than {_plain(context['gt'])}"
        case _:
            wants = problem["msg"][:1].lower() + problem["msg"][1:]
    if len(problem["loc"]) > 1:  # a number or one word
        wants += " or auto"
    return f"{variable} {wants}."


def _without_tilde(path: Path) -> Path:
    try:
        return path.expanduser()
    except RuntimeError:  # ~name of nobody: not absolute, and the caller says so
        return path


def _plain(number: float) -> str:
    return str(int(number)) if math.isfinite(number) and number == int(number) else str(number)
