"""All settings, read from environment variables; the README has the table.

`python -m comfyui_tryon.settings` checks them, before a start loads anything heavy.
"""

import os
import re
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SecretStr, ValidationError, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from . import log
from .hosts import UrlHosts
from .keys import Keys
from .origins import Origins
from .signing import check_secret

PACK = Path(__file__).resolve().parent
PROJECT = PACK.parents[1]
TEMPLATES = PACK / "example_workflows"


def is_repository(folder: Path) -> bool:
    """Whether `folder` has the whole repository, and is not a ComfyUI with a start.sh of its own."""
    is_comfyui = (folder / "comfy").is_dir()
    return (folder / "start.sh").is_file() and any((folder / "workflows").glob("*.json")) and not is_comfyui


# A pack that was copied or linked without its repository has no other workflows than its templates.
WORKFLOWS = PROJECT / "workflows" if is_repository(Path(os.path.abspath(__file__)).parents[2]) else TEMPLATES
WORKFLOW_NAME = "[A-Za-z0-9][A-Za-z0-9._-]{0,63}"  # to be matched whole; web/tryon.js has the same

ROUTE = r"^/[A-Za-z0-9._~:@/-]*$"

# Variables that begin so and are no settings: the clients' own, and what Kubernetes and Docker set for a service
# that is called tryon or tryon-…. Of those, TRYON_PORT is a URL.
OTHERS = re.compile(r"TRYON_(URL|(.+_)?(SERVICE_(HOST|PORT)(_.+)?|PORT_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?))")
LINK = re.compile(r"(tcp|udp|sctp)://")

SECRETS = {"TRYON_API_KEY", "TRYON_WEBHOOK_SECRET"}  # are never shown


class SettingsError(ValueError):
    """An environment variable has an unusable value, or none has its name; the message says what is allowed."""


class Settings(BaseSettings):
    model_config = SettingsConfigDict(
        alias_generator=lambda name: f"TRYON_{name.upper()}",
        case_sensitive=True,
        populate_by_name=True,
        env_prefix="TRYON_",  # else a variable with a field's own name, such as `port`, would count too
        env_ignore_empty=True,
        extra="ignore",
        frozen=True,
    )

    port: Annotated[int, Field(ge=1, le=65535, validation_alias="PORT")] = 8000
    port_health: Annotated[int | None, Field(ge=1, le=65535, validation_alias="PORT_HEALTH")] = None
    listen: Annotated[str, Field(min_length=1, validation_alias="LISTEN")] = "0.0.0.0"
    workflow: Annotated[str, Field(pattern=f"^{WORKFLOW_NAME}$")] = "catvton"
    workflows_dir: Path = WORKFLOWS
    models_dir: Path | None = None
    api_key: SecretStr | None = None
    cors_origins: str = ""
    url_hosts: str = ""
    webhook_secret: SecretStr | None = None
    max_queue: Annotated[int, Field(ge=0, le=10_000)] = 8
    timeout_s: Annotated[float, Field(gt=0, le=86_400)] = 300
    max_body_mb: Annotated[float, Field(gt=0, le=1024)] = 30
    max_pixels: Annotated[int, Field(ge=64 * 64, le=1_000_000_000)] = 64_000_000
    max_output_side: Annotated[int, Field(ge=64, le=16_383)] = 2048  # what WebP can hold
    decode_mb: Annotated[float, Field(ge=64, le=1_000_000)] = 2048
    warmup: bool = True
    drain_s: Annotated[float, Field(ge=0, le=3600)] = 25
    exit_when_failed: bool = False
    log_format: Literal["text", "json"] = "text"
    locked: bool = False
    playground: bool = False
    packs: str = ""
    # Names that other platforms have for the routes: start.sh serve sets the first, Vertex AI the others.
    sagemaker: bool = False
    health_route: Annotated[str | None, Field(pattern=ROUTE, validation_alias="AIP_HEALTH_ROUTE")] = None
    predict_route: Annotated[str | None, Field(pattern=ROUTE, validation_alias="AIP_PREDICT_ROUTE")] = None

    @field_validator("port", "port_health", mode="before")
    @classmethod
    def _check_port(cls, value: Any) -> Any:
        if isinstance(value, str) and not value.strip().isdecimal():  # pydantic takes 8000.0, but ComfyUI does not
            raise ValueError("must be a whole number")
        return value

    @field_validator("api_key")
    @classmethod
    def _check_keys(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            Keys.parse(value.get_secret_value())
        return value

    @field_validator("cors_origins")
    @classmethod
    def _check_origins(cls, value: str) -> str:
        Origins.parse(value)
        return value

    @field_validator("url_hosts")
    @classmethod
    def _check_hosts(cls, value: str) -> str:
        UrlHosts.parse(value)
        return value

    @field_validator("webhook_secret")
    @classmethod
    def _check_secret(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            check_secret(value.get_secret_value())
        return value

    def hosts(self) -> UrlHosts:
        """Returns the hosts that URLs of clients may name."""
        return UrlHosts.parse(self.url_hosts)

    def origins(self) -> Origins:
        """Returns the web pages that may call the API from a browser."""
        return Origins.parse(self.cors_origins)

    def local_url(self) -> str:
        """Returns the URL at which programs on this machine reach the server."""
        host = self.listen.split(",")[0].strip()
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
        return f"http://{f'[{host}]' if ':' in host else host}:{self.port}"

    def pack_names(self) -> list[str]:
        """Returns the folders of the other node packs that a locked ComfyUI loads; start.sh passes them on."""
        return [name for part in self.packs.split(",") if (name := part.strip())]

    def keys(self) -> Keys:
        return Keys.parse(self.api_key.get_secret_value()) if self.api_key else Keys({})

    @property
    def key_is_empty(self) -> bool:
        """Whether TRYON_API_KEY is set to nothing, as compose files and optional secrets do."""
        return os.environ.get("TRYON_API_KEY") == ""


def host_listens(addresses: str, port: int) -> None:
    """Makes the host's addresses (with commas) and port those of `settings`, whatever PORT and LISTEN are set to."""
    _host.update(LISTEN=addresses, PORT=port)
    settings.cache_clear()


_host: dict[str, Any] = {}


@lru_cache
def settings() -> Settings:
    """Returns the settings of this process.

    Raises:
        SettingsError: a variable is out of range or of the wrong kind, or begins with TRYON_ and is no setting.
    """
    lines = _unknown()
    try:
        found = Settings(**_host)
    except ValidationError as error:
        for problem in error.errors():
            name = str(problem["loc"][0])
            shown = "" if name in SECRETS else f" (it is {problem['input']!r})"
            lines.append(f"{name}: {problem['msg']}{shown}")
    if lines:
        raise SettingsError("Bad settings. " + "; ".join(lines))
    return found


def _unknown() -> list[str]:
    """Returns what is wrong with variables that look like settings and are none: a misspelled TRYON_API_KEY would leave
    the server open."""
    known = {str(field.validation_alias) for field in Settings.model_fields.values()}
    bare = {name.removeprefix("TRYON_"): name for name in known}
    lines = []
    for name, value in sorted(os.environ.items()):
        upper = name.upper()
        is_link = bool(OTHERS.fullmatch(upper)) or (upper.endswith("_PORT") and bool(LINK.match(value)))
        if not upper.startswith("TRYON_") or name in known or is_link:
            continue
        near = get_close_matches(upper.removeprefix("TRYON_"), bare, 1)
        meant = f"Did you mean {bare[near[0]]}?" if near else "The README lists all settings."
        lines.append(f"{name}: there is no such setting. {meant} Correct or unset it")
    return lines


if __name__ == "__main__":
    try:
        settings()
    except SettingsError as error:
        log.leave(str(error))
