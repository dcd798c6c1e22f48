"""Settings: flags > `ENGRAM_*` environment > YAML > defaults, into frozen typed models.

A service declares a section (`class EmbedderSettings(Section)`) and a `Settings(Common)` that holds it.
`ENGRAM_<SECTION>_<FIELD>` names a field in the environment, `ENGRAM_<FIELD>` one of the top level; with
`_FILE` behind it, the value is read from the file it names. An empty variable counts as not set. `${VAR}` in YAML
is taken from the environment.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr, ValidationError

from engram_contracts.errors import Rejected

Durability = Literal["power", "second", "process"]


class Section(BaseModel):
    """A named group of settings; a key it does not know is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class NatsSettings(Section):
    """Where the broker is. `user` and `password`, or `credentials` (a file), where it asks for them."""

    url: str = "nats://127.0.0.1:4222"
    user: str | None = None
    password: SecretStr | None = None
    credentials: Path | None = None
    replicas: int = Field(default=1, ge=1, le=5)


class HostSettings(Section):
    """How a process runs: its health page's port (0 picks a free one) and how long it may take to stop.

    Into `ready_file` it writes its process id once it does its work, and touches it every second from then on. From
    then on, too, it gives way to others by `nice`: somebody may be waiting for its start, and, where the system lets it
    be lifted again, for its end.
    """

    health_host: str = "127.0.0.1"
    health_port: int = 0
    drain_seconds: float = 20.0
    ready_file: Path | None = None
    nice: int = Field(default=0, ge=0, le=19)
    hang_seconds: float = Field(default=120.0, gt=0)


class TelemetrySettings(Section):
    """Whether requests are traced, how many of them (0 to 1), and where their spans go besides the broker.

    `otlp_endpoint` is a collector's address for OTLP over HTTP; with `off`, spans are kept on the broker alone.
    """

    enabled: bool = False
    sample_rate: float = Field(default=0.1, ge=0, le=1)
    otlp_endpoint: str = "http://localhost:4318"


class EncryptionSettings(Section):
    """The master keys that wrap the data keys of encrypted tenants, the newest first.

    Each is 32 bytes in base64; blanks, line ends or commas are between them. All unwrap, the newest wraps.
    """

    key: SecretStr | None = None


class AuditSettings(Section):
    """Whether an audit trail is kept. A door writes down what it refused `every` so many seconds, added up."""

    enabled: bool = True
    every: float = Field(default=60.0, gt=0)


class Common(BaseModel):
    """What every service needs to know. Sections of other services are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    data_dir: Annotated[Path, AfterValidator(lambda path: path.expanduser().absolute())] = Field(
        default=Path("~/.engram/data"), validate_default=True
    )
    durability: Durability = "power"
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    nats: NatsSettings = NatsSettings()
    audit: AuditSettings = AuditSettings()
    encryption: EncryptionSettings = EncryptionSettings()
    host: HostSettings = HostSettings()
    telemetry: TelemetrySettings = TelemetrySettings()


S = TypeVar("S", bound=BaseModel)

ALIASES = {"ENGRAM_EMBEDDER": ("embedder", "adapter")}
"""Environment names that stand for one field of a section."""


def load(
    kind: type[S],
    *,
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str],
    config: Path | None = None,
) -> S:
    """The settings of `kind`. `flags` is nested like the YAML; a `None` in it counts as not given.

    Raises `Rejected`, naming the key and the value, when a value does not fit, a variable in the YAML is not
    set, or the file cannot be read. A missing default file (`~/.engram/config.yaml`) is no error.
    """
    layers = (_from_yaml(config, environ), _from_environment(kind, environ), _given(flags or {}))
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = _merge(merged, layer)
    try:
        return kind.model_validate(merged)
    except ValidationError as error:
        raise Rejected(_explain(error)) from error


def _from_yaml(path: Path | None, environ: Mapping[str, str]) -> dict[str, Any]:
    file = path or Path(environ.get("ENGRAM_CONFIG", "~/.engram/config.yaml"))
    try:
        text = file.expanduser().read_text()
    except FileNotFoundError:
        if path is None and "ENGRAM_CONFIG" not in environ:
            return {}
        raise Rejected(f"config file {str(file)!r} does not exist") from None
    except OSError as error:
        raise Rejected(f"config file {str(file)!r} cannot be read: {error.strerror}") from error
    try:
        tree = yaml.safe_load(text) or {}
    except yaml.YAMLError as error:
        raise Rejected(f"config file {str(file)!r} is not valid YAML: {error}") from error
    if not isinstance(tree, dict):
        raise Rejected(f"config file {str(file)!r} must hold a mapping of sections")
    return {key: _expand(value, environ, key) for key, value in tree.items()}


def _expand(value: Any, environ: Mapping[str, str], key: str) -> Any:
    if isinstance(value, dict):
        return {name: _expand(item, environ, f"{key}.{name}") for name, item in value.items()}
    if isinstance(value, list):
        return [_expand(item, environ, f"{key}[{n}]") for n, item in enumerate(value)]
    if not isinstance(value, str):
        return value

    def replace(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in environ:
            raise Rejected(f"{key} refers to ${{{name}}}, which is not set; set it or change the config")
        return environ[name]

    return re.sub(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}", replace, value)


def _from_environment(kind: type[BaseModel], environ: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for variable, place in _variables(kind).items():
        value = _lookup(variable, environ)
        if value is not None:
            found = _merge(found, _nest(place, value))
    return found


def _variables(kind: type[BaseModel]) -> dict[str, tuple[str, ...]]:
    names: dict[str, tuple[str, ...]] = {
        name: place for name, place in ALIASES.items() if place[0] in kind.model_fields
    }
    for name, field in kind.model_fields.items():
        section = _section(field.annotation)
        if section is None:
            names[f"ENGRAM_{name.upper()}"] = (name,)
        else:
            for inner in section.model_fields:
                names[f"ENGRAM_{name.upper()}_{inner.upper()}"] = (name, inner)
    return names


def _section(annotation: Any) -> type[Section] | None:
    candidates = (annotation, *get_args(annotation))
    return next((c for c in candidates if isinstance(c, type) and issubclass(c, Section)), None)


def _lookup(variable: str, environ: Mapping[str, str]) -> str | None:
    if environ.get(variable):
        return environ[variable]
    file = environ.get(f"{variable}_FILE")
    if not file:
        return None
    try:
        return Path(file).read_text().strip()
    except OSError as error:
        raise Rejected(f"{variable}_FILE names {file!r}, which cannot be read: {error.strerror}") from error


def _given(flags: Mapping[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, value in flags.items():
        if isinstance(value, Mapping):
            kept[name] = _given(value)
        elif value is not None:
            kept[name] = value
    return kept


def _nest(place: tuple[str, ...], value: Any) -> dict[str, Any]:
    for name in reversed(place):
        value = {name: value}
    return value  # type: ignore[no-any-return]  # a place has at least one name, so this is a dict


def _merge(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for name, value in above.items():
        old = merged.get(name)
        merged[name] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def _explain(error: ValidationError) -> str:
    lines = []
    for problem in error.errors(include_url=False, include_context=False):
        key = ".".join(str(part) for part in problem["loc"])
        secret = any(word in key for word in ("secret", "password", "key", "token", "pepper"))
        whole = isinstance(problem["input"], Mapping)  # a section, which may hold secrets
        shown = "" if secret or whole else f" (got {problem['input']!r})"
        lines.append(f"{key}: {problem['msg']}{shown}")
    return "settings do not fit: " + "; ".join(lines)
