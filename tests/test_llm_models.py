"""The models file: what each name leads to, and every way the file can be wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from app.errors import StartFailed, UpstreamFailed
from app.llm.models import Models, load_models
from app.llm.providers import PROVIDERS
from app.settings import Settings

EXAMPLE = Path(__file__).parent.parent / "config" / "models.example.toml"


def load(tmp_path: Path, text: str, **settings: str) -> Models:
    file = tmp_path / "models.toml"
    file.write_text(text)
    return load_models(msgspec.structs.replace(Settings(), models_file=str(file), **settings))


@pytest.fixture(autouse=True)
def _no_ambient_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_API_BASE", "HOSTED_VLLM_API_BASE", "HOSTED_VLLM_API_KEY"):
        monkeypatch.delenv(name, raising=False)


def test_with_nothing_configured_the_demo_answers() -> None:
    models = load_models(Settings())
    assert models.names() == ["default", "demo"]
    assert models.target("default").path == models.target("demo").path == "demo"


def test_the_settings_name_the_default() -> None:
    models = load_models(Settings(model="llama", model_api_base="http://127.0.0.1:1/v1", model_api_key="k"))
    target = models.target("default")
    assert (target.path, target.model, target.api_key) == ("direct", "llama", "k")
    assert "k'" not in repr(target)


def test_the_file_wins_over_the_settings(tmp_path: Path) -> None:
    models = load(tmp_path, '[models.default]\nmodel = "anthropic/a"', model="openai/b")
    assert models.target("default").model == "anthropic/a"


def test_without_a_default_the_first_alias_is_it(tmp_path: Path) -> None:
    models = load(tmp_path, '[models.z]\nmodel = "gemini/x"\nmax_output_tokens = 9\n[models.a]\nmodel = "gemini/y"')
    assert models.target("default").model == "gemini/x"
    assert models.names() == ["default", "a", "z", "demo"]
    assert (models.ceiling("z", 5), models.ceiling("default", 5), models.ceiling("a", 5)) == (9, 9, 5)


@pytest.mark.parametrize(
    ("alias", "path", "model", "base"),
    [
        ('model = "openai/gpt"', "direct", "gpt", "https://api.openai.com/v1"),
        ('model = "openai/gpt"\napi_base = "http://h/v1"', "direct", "gpt", "http://h/v1"),
        ('model = "hosted_vllm/org/m"\napi_base = "http://h/v1"', "direct", "org/m", "http://h/v1"),
        ('model = "ollama/m"\napi_base = "http://h:1/v1/"', "direct", "m", "http://h:1/v1/"),
        ('model = "ollama/m"\napi_base = "http://h:1"', "litellm", "ollama/m", "http://h:1"),
        ('model = "m"\napi_base = "http://h/v1"', "direct", "m", "http://h/v1"),
        ('model = "meta-llama/m"\napi_base = "http://h/v1"', "direct", "meta-llama/m", "http://h/v1"),
        ('model = "anthropic/m"\napi_base = "http://h"', "litellm", "anthropic/m", "http://h"),
        ('model = "anthropic/m"', "litellm", "anthropic/m", ""),
        ('model = "mistral/m"\napi_base = "http://h/v1"\napi = "direct"', "direct", "mistral/m", "http://h/v1"),
        ('model = "openai/m"\napi = "litellm"', "litellm", "openai/m", ""),
        ('model = "demo"', "demo", "demo", ""),
    ],
)
def test_which_path_a_model_takes(tmp_path: Path, alias: str, path: str, model: str, base: str) -> None:
    target = load(tmp_path, f"[models.x]\n{alias}").target("x")
    assert (target.path, target.model, target.api_base) == (path, model, base)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[models.x]\nmodel = "a/b"\ncolour = 1', ["models.toml", "models.x", "colour"]),
        ("[models.x]\n", ["models.x", "model"]),
        ("[models.x]\nmodel = 3", ["models.x", "$.model"]),
        ('[models.x]\nmodel = ""', ["models.x", "model is empty"]),
        ('[models.x]\nmodel = "a"', ["models.x", "names no provider"]),
        ('[models.x]\nmodel = "a"\napi_base = "host:8000"', ["models.x", "api_base"]),
        ('[models.x]\nmodel = "a"\napi_base = "http://"', ["models.x", "api_base"]),
        ('[models.x]\nmodel = "mistral/a"\napi = "direct"', ["models.x", "api_base is missing"]),
        ('[models.x]\nmodel = "a/b"\napi = "carrier pigeon"', ["models.x", "$.api"]),
        ('[models.x]\nmodel = "openai/b"\napi_key = "1"\napi_key_env = "A"', ["models.x", "api_key_env"]),
        ('[models.x]\nmodel = "openai/b"\napi_key_env = "REPRISE_NO_SUCH"', ["models.x", "REPRISE_NO_SUCH"]),
        ('[models.x]\nmodel = "openai/b"\nmax_output_tokens = 0', ["models.x", "max_output_tokens"]),
        ('[models.demo]\nmodel = "openai/b"', ["models.demo", "built-in"]),
        ("models = 3", ["models.toml", "[models.NAME]"]),
        ("pass_through = 1", ["pass_through"]),
        ("passthrough = true", ["passthrough"]),
        ("[models.x", ["models.toml", "cannot be read"]),
    ],
)
def test_what_is_wrong_with_a_file_stops_the_start(tmp_path: Path, text: str, words: list[str]) -> None:
    with pytest.raises(StartFailed) as caught:
        load(tmp_path, text)
    assert all(word in caught.value.message for word in words), caught.value.message


def test_a_file_that_is_not_there_stops_the_start() -> None:
    with pytest.raises(StartFailed, match="no-such-file"):
        load_models(Settings(models_file="/no-such-file"))


def test_the_example_is_a_valid_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "o")
    monkeypatch.setenv("ANTHROPIC_API_KEY", "a")
    models = load_models(Settings(models_file=str(EXAMPLE)))
    paths = {name: models.target(name).path for name in models.names()}
    assert paths["local"] == paths["ollama"] == paths["default"] == "direct"
    assert paths["claude"] == paths["local-through-litellm"] == "litellm"
    assert models.target("careful").api_key == "o"


def test_unknown_names_are_refused_and_provider_names_pass(tmp_path: Path) -> None:
    models = load(tmp_path, '[models.one]\nmodel = "openai/b"')
    for name in ("one", "default", "demo", "anthropic/claude", "nobody/knows"):
        assert not models.unknown(name)
    for name in ("two", "", "/", "openai/", "/x"):
        assert "one" in models.unknown(name)


def test_pass_through_can_be_switched_off(tmp_path: Path) -> None:
    models = load(tmp_path, 'pass_through = false\n[models.one]\nmodel = "openai/b"')
    assert models.unknown("openai/gpt")
    with pytest.raises(UpstreamFailed):
        models.target("openai/gpt")


def test_openai_s_own_key_goes_to_openai_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "theirs")
    models = load(tmp_path, '[models.x]\nmodel = "openai/b"\napi_base = "http://elsewhere/v1"')
    assert models.target("x").api_key == ""
    assert models.target("openai/gpt").api_key == "theirs"


def test_a_litellm_model_needs_the_door(tmp_path: Path) -> None:
    models = load(tmp_path, '[models.x]\nmodel = "anthropic/b"')
    with pytest.raises(UpstreamFailed, match="litellm"):
        models.open("x", lambda *_: None)  # type: ignore[arg-type,return-value]


def test_checking_names_imports_neither_litellm_nor_an_http_client() -> None:
    code = "import sys, app.llm.models; sys.exit(any(m in sys.modules for m in ('litellm', 'httpx', 'openai')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_list_of_providers_has_all_of_litellm_s() -> None:
    from app.llm import litellm_door

    known = {str(getattr(p, "value", p)) for p in litellm_door.litellm.provider_list}
    assert known <= PROVIDERS
