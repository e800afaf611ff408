"""The models this server knows: aliases from the operator's file, and what each name leads to.

Web processes use this to check a request's `model`, so nothing here imports an HTTP client or litellm; workers hand
in the two doors.

1. ``default`` is the file's alias of that name, else the settings' ``model``, else the file's first alias, else the
   built-in ``demo``, which is always there under its own name too.
2. OpenAI-compatible upstreams take the direct path: providers ``openai`` and ``hosted_vllm`` (and the others in
   `COMPATIBLE` where an address is given), and any model whose name begins with no provider of litellm's but has an
   address. The rest goes to litellm. ``api = "direct"`` or ``"litellm"`` decides it by hand.
3. Everything that can be wrong with the file is found at load and stops the start, naming file, alias and key.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import msgspec

from app.errors import StartFailed, UpstreamFailed
from app.llm.demo import DemoModel
from app.llm.providers import COMPATIBLE, PROVIDERS
from app.llm.retry import RetryingModel
from app.llm.types import Door, Model, Target
from app.settings import Settings, environment

OPENAI_BASE = "https://api.openai.com/v1"
DEFAULT = "default"
DEMO = "demo"


class Alias(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """``[models.NAME]`` in the file. ``params`` goes into every request's upstream body and wins over it."""

    model: str
    api_base: str = ""
    api_key: str = ""
    api_key_env: str = ""
    max_output_tokens: int | None = None
    params: dict[str, Any] = {}
    api: Literal["auto", "direct", "litellm"] = "auto"

    def __repr__(self) -> str:
        return f"Alias(model={self.model!r}, api_base={self.api_base!r})"


class Models:
    """All names a request may give as its `model`. Immutable; made by `load_models`."""

    def __init__(self, targets: dict[str, Target], ceilings: dict[str, int], *, pass_through: bool) -> None:
        self._targets = targets
        self._ceilings = ceilings
        self._pass_through = pass_through

    def names(self) -> list[str]:
        """The aliases, ``default`` first, ``demo`` last."""
        return sorted(self._targets, key=lambda name: (name == DEMO, name != DEFAULT, name))

    def unknown(self, name: str) -> str:
        """What to say of a name that is neither an alias nor allowed to pass through; empty for any other."""
        if name in self._targets or (self._pass_through and _has_provider(name)):
            return ""
        hint = ", or a provider/model name" if self._pass_through else ""
        return f"unknown model; known are {', '.join(self.names())}{hint}"

    def ceiling(self, name: str, default: int) -> int:
        """Default and ceiling of max_tokens for this model, in tokens."""
        return self._ceilings.get(name, default)

    def target(self, name: str) -> Target:
        """Where a name leads. Raises UpstreamFailed for one that `check` would refuse (the file has changed since)."""
        known = self._targets.get(name)
        if known is not None:
            return known
        if self._pass_through and _has_provider(name):
            return _target(name, Alias(model=name))
        raise UpstreamFailed(
            f"no model is called {name} here any more",
            type="not_found_error",
            code="MODEL_NOT_FOUND",
            explanation="The model that was asked for is no longer configured.",
        )

    def open(self, name: str, direct: Door, litellm: Door | None = None) -> Model:
        """The model, ready to be asked. Cheap: connections belong to the doors."""
        target = self.target(name)
        if target.path == "demo":
            return DemoModel(name)
        if target.path == "direct":
            return RetryingModel(target, direct)
        if litellm is None:
            raise UpstreamFailed(f"{name} needs litellm, which this process does not have", code="UPSTREAM_UNAVAILABLE")
        return RetryingModel(target, litellm)


def load_models(settings: Settings) -> Models:
    """The models of the file and the settings, checked. Raises StartFailed with the file, alias and key."""
    aliases: dict[str, Alias] = {}
    pass_through = True
    if settings.models_file:
        aliases, pass_through = _from_file(Path(settings.models_file))
    targets, ceilings = {}, {}
    for name, alias in aliases.items():
        place = f"models file {settings.models_file}: [models.{name}]"
        targets[name] = _checked(name, alias, place)
        if alias.max_output_tokens is not None:
            ceilings[name] = alias.max_output_tokens
    if DEFAULT not in targets and settings.model:
        alias = Alias(model=settings.model, api_base=settings.model_api_base, api_key=settings.model_api_key)
        targets[DEFAULT] = _checked(DEFAULT, alias, "settings model, model_api_base, model_api_key")
    elif DEFAULT not in targets and aliases:
        first = next(iter(aliases))
        targets[DEFAULT] = msgspec.structs.replace(targets[first], name=DEFAULT)
        if first in ceilings:
            ceilings[DEFAULT] = ceilings[first]
    targets[DEMO] = Target(name=DEMO, model=DEMO, path="demo")
    targets.setdefault(DEFAULT, Target(name=DEFAULT, model=DEMO, path="demo"))
    return Models(targets, ceilings, pass_through=pass_through)


def _from_file(path: Path) -> tuple[dict[str, Alias], bool]:
    try:
        table = msgspec.toml.decode(path.read_bytes())
    except (OSError, UnicodeDecodeError, msgspec.DecodeError) as error:
        reason = getattr(error, "strerror", None) or error  # an OSError's own text repeats the path
        raise StartFailed(f"the models file {path} cannot be read: {reason}") from None
    unknown = sorted(set(table) - {"models", "pass_through"})
    if unknown:
        raise StartFailed(f"models file {path}: unknown key {unknown[0]}")
    pass_through = table.get("pass_through", True)
    if not isinstance(pass_through, bool):
        raise StartFailed(f"models file {path}: pass_through must be true or false")
    models = table.get("models", {})
    if not isinstance(models, dict):
        raise StartFailed(f"models file {path}: models must be a table of aliases, [models.NAME]")
    aliases = {}
    for name, value in models.items():
        try:
            aliases[name] = msgspec.convert(value, Alias)
        except msgspec.ValidationError as error:
            raise StartFailed(f"models file {path}: [models.{name}]: {error}") from None
    return aliases, pass_through


def _checked(name: str, alias: Alias, place: str) -> Target:
    if name == DEMO:
        raise StartFailed(f"{place}: the name demo belongs to the built-in model")
    if not alias.model:
        raise StartFailed(f"{place}: model is empty")
    if alias.api_key and alias.api_key_env:
        raise StartFailed(f"{place}: api_key and api_key_env are both given")
    if alias.api_key_env and not environment(alias.api_key_env):
        raise StartFailed(f"{place}: api_key_env names {alias.api_key_env}, which is not set in the environment")
    if alias.max_output_tokens is not None and alias.max_output_tokens < 1:
        raise StartFailed(f"{place}: max_output_tokens must be at least 1")
    if alias.api_base and (urlsplit(alias.api_base).scheme not in ("http", "https") or not _host(alias.api_base)):
        raise StartFailed(f"{place}: api_base must be an http:// or https:// address, not {alias.api_base}")
    target = _target(name, alias)
    if target.path == "direct" and not target.api_base:
        raise StartFailed(f"{place}: api_base is missing; {alias.model} is asked directly")
    if target.path == "litellm" and "/" not in alias.model and alias.api == "auto":
        raise StartFailed(
            f"{place}: model {alias.model} names no provider; write provider/{alias.model}, or give an api_base"
        )
    return target


def _host(address: str) -> str | None:
    try:
        return urlsplit(address).hostname
    except ValueError:
        return None


def _target(name: str, alias: Alias) -> Target:
    if alias.model == DEMO:
        return Target(name=name, model=DEMO, path="demo")
    key = alias.api_key or (environment(alias.api_key_env) if alias.api_key_env else "") or ""
    provider, slash, rest = alias.model.partition("/")
    known = bool(slash) and provider in PROVIDERS
    base = alias.api_base or _usual_base(provider if known else "")
    if not _is_direct(alias, provider if known else "", base):
        return Target(
            name=name, model=alias.model, path="litellm", api_base=alias.api_base, api_key=key, params=alias.params
        )
    model = rest if known and provider in COMPATIBLE else alias.model
    key = key or _usual_key(provider if known else "", alias.api_base)
    return Target(name=name, model=model, path="direct", api_base=base, api_key=key, params=alias.params)


def _is_direct(alias: Alias, provider: str, base: str) -> bool:
    if alias.api != "auto":
        return alias.api == "direct"
    if not base:
        return False
    # Ollama speaks its own protocol at its root and OpenAI's under /v1.
    if provider.startswith("ollama"):
        return base.rstrip("/").endswith("/v1")
    return not provider or provider in COMPATIBLE


def _usual_base(provider: str) -> str:
    if provider == "openai":
        return environment("OPENAI_BASE_URL") or environment("OPENAI_API_BASE") or OPENAI_BASE
    return (environment("HOSTED_VLLM_API_BASE") or "") if provider == "hosted_vllm" else ""


def _usual_key(provider: str, api_base: str) -> str:
    """The provider's customary variable; OpenAI's key goes to no address that an alias names."""
    if provider == "openai" and not api_base:
        return environment("OPENAI_API_KEY") or ""
    return (environment("HOSTED_VLLM_API_KEY") or "") if provider == "hosted_vllm" else ""


def _has_provider(name: str) -> bool:
    provider, slash, model = name.partition("/")
    return bool(provider and slash and model)
