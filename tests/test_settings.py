"""The settings: what each takes, what an unusable one says, and what follows from them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from inference_mcp.errors import SettingsError
from inference_mcp.requests import RequestType
from inference_mcp.settings import PREFIX, load_settings

SECRET = "sk-very-secret"
HERE = Path.cwd()


def refusal(**environ: str) -> str:
    """What these variables are refused with."""
    with pytest.raises(SettingsError) as caught:
        load_settings(environ)
    return str(caught.value)


def test_an_empty_environment_gives_the_documented_defaults() -> None:
    """Nothing has to be set."""
    settings = load_settings({})
    assert settings.base_url == "http://localhost:8080"
    assert settings.authorization is None
    assert (settings.max_concurrency, settings.max_queue) == (1, 256)
    assert (settings.timeout_s, settings.wait_s, settings.result_ttl_s) == (900, 40, 3600)
    assert (settings.preview, settings.log_level, settings.log_file) == ("thumb", "info", None)
    assert settings.model_concurrency == {}
    assert settings.default_models == {}
    assert settings.model_sets == {}


def test_a_bundles_option_that_was_left_out_counts_as_not_set() -> None:
    """Hosts hand over the placeholder itself; a value that only holds one is a value."""
    names = ("LOCALAI_URL", "LOCALAI_API_KEY", PREFIX + "WAIT_S", PREFIX + "INPUT_ROOTS")
    left_out = {name: " ${user_config." + name.lower() + "} " for name in names}
    assert load_settings(left_out) == load_settings({})
    for value in ("${model}", "my ${user_config.model}", "${user_config.model}s", "user_config.m"):
        assert load_settings({PREFIX + "TXT2TXT_MODEL": value}).txt2txt_model == value
    assert refusal(LOCALAI_URL="${LOCALAI_URL}") == "LOCALAI_URL takes an http:// or https:// URL."


def test_an_empty_value_counts_as_not_set() -> None:
    """Hosts fill in empty strings for options that their user left out."""
    environ = dict.fromkeys(("LOCALAI_URL", "LOCALAI_API_KEY", PREFIX + "WAIT_S"), "  ")
    assert load_settings(environ) == load_settings({})


def test_names_of_variables_are_taken_in_any_case() -> None:
    """Windows knows no case in them."""
    assert load_settings({"inference_mcp_wait_s": "5"}).wait_s == 5


def test_what_belongs_to_other_programs_is_left_alone() -> None:
    """Only this program's own prefix is checked for unknown names."""
    assert load_settings({"LOCALAI_MODELS_PATH": "x", "INFERENCE": "y"}) == load_settings({})


@pytest.mark.parametrize(
    ("name", "value", "wants"),
    [
        ("MAX_CONCURRENCY", "0", "takes 1 or more"),
        ("MAX_CONCURRENCY", "two", "takes a whole number"),
        ("MAX_CONCURRENCY", "1.5", "takes a whole number"),
        ("MAX_CONCURRENCY", "true", "takes a whole number"),
        ("MAX_CONCURRENCY", "9" * 5000, "takes a whole number"),
        ("MODEL_CONCURRENCY", "qwen3-8b", "takes model=slots pairs such as"),
        ("MODEL_CONCURRENCY", "qwen3-8b=0", "takes model=slots pairs such as"),
        ("MODEL_CONCURRENCY", "=4", "takes model=slots pairs such as"),
        ("MODEL_CONCURRENCY", "a=²", "takes model=slots pairs such as"),
        ("MODEL_CONCURRENCY", "a=" + "9" * 5000, "takes model=slots pairs such as"),
        ("MAX_QUEUE", "0", "takes 1 or more"),
        ("TIMEOUT_S", "0", "takes more than 0"),
        ("TIMEOUT_S", "nan", "takes a number"),
        ("TIMEOUT_S", "inf", "takes a number"),
        ("TIMEOUT_S", "soon", "takes a number"),
        ("WAIT_S", "0.5", "takes 1 or more"),
        ("WAIT_S", "3601", "takes 3600 or less"),
        ("RESULT_TTL_S", "-1", "takes more than 0"),
        ("MAX_RESIDENT_MODELS", "many", "takes a whole number or auto"),
        ("PREEMPTION", "Type", "takes 'type', 'class' or 'off'"),
        ("SHARE", "x", "takes 'auto' or 'off'"),
        ("PREVIEW", "big", "takes 'thumb', 'none' or 'full'"),
        ("LOG_LEVEL", "loud", "takes 'debug', 'info', 'warning', 'error' or 'critical'"),
        ("LOG_FILE", "a.log", "takes an absolute path"),
        ("OUTPUT_DIR", "pictures", "takes an absolute path"),
        ("OUTPUT_DIR", "~no-such-user-here/x", "takes an absolute path"),
        ("INPUT_ROOTS", "pictures", "takes absolute folders"),
        ("INPUT_ROOTS", f"{HERE}{os.pathsep}pictures", "takes absolute folders"),
        ("INPUT_ROOTS", "~no-such-user-here/x", "takes absolute folders"),
    ],
)
def test_an_unusable_value_names_its_variable_and_what_it_takes(
    name: str, value: str, wants: str
) -> None:
    """One line, and the value itself is not in it."""
    told = refusal(**{PREFIX + name: value})
    assert told.startswith(f"{PREFIX}{name} {wants}")
    assert "\n" not in told
    assert len(told) < 200


@pytest.mark.parametrize(
    "url",
    [
        "localhost:8080",
        "ftp://localhost",
        "http://",
        "http://:8080",
        "http://host:0",
        "http://host:99999",
        "http://[::1",
        "http://two words",
        "http://host\n.example",
    ],
)
def test_a_url_that_is_none_is_refused(url: str) -> None:
    """Also what the standard library would mend in silence."""
    assert refusal(LOCALAI_URL=url) == "LOCALAI_URL takes an http:// or https:// URL."


@pytest.mark.parametrize("key", ["two words", "kéy", "line\nbreak"])
def test_a_key_that_fits_no_header_is_refused_and_not_shown(key: str) -> None:
    """A bearer token is visible ASCII."""
    told = refusal(LOCALAI_API_KEY=key)
    assert told.startswith("LOCALAI_API_KEY takes")
    assert key not in told


def test_a_url_with_a_password_is_not_shown_where_it_is_refused() -> None:
    """Credentials in a URL are as secret as a key."""
    assert SECRET not in refusal(LOCALAI_URL=f"http://user:{SECRET}@host:99999")


@pytest.mark.parametrize(
    ("misspelled", "meant"),
    [
        ("INFERENCE_MCP_MAX_CONCURENCY", "INFERENCE_MCP_MAX_CONCURRENCY"),
        ("INFERENCE_MCP_TXT2TEXT_MODEL", "INFERENCE_MCP_TXT2TXT_MODEL"),
        ("INFERENCE_MCP_TIMEOUT", "INFERENCE_MCP_TIMEOUT_S"),
        ("INFERENCE_MCP_LOCALAI_URL", "LOCALAI_URL"),
        ("INFERENCE_MCP_LOCALAI_API_KEY", "LOCALAI_API_KEY"),
    ],
)
def test_an_unknown_variable_suggests_the_nearest(misspelled: str, meant: str) -> None:
    """A misspelled limit that silently does nothing is worse than a server that stops."""
    told = refusal(**{misspelled: "1"})
    assert told == f"{misspelled} is not a setting. Did you mean {meant}?"


def test_an_unknown_variable_is_one_line_whatever_its_name_holds() -> None:
    """A line break in a name is possible, and stderr gets exactly one line."""
    assert "\n" not in refusal(**{"INFERENCE_MCP_A\nB": "1"})


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("http://host:8080", "http://host:8080"),
        ("http://host:8080/", "http://host:8080"),
        ("http://host:8080/v1", "http://host:8080"),
        ("http://host:8080/v1/", "http://host:8080"),
        ("https://host/localai/v1", "https://host/localai"),
        (f"http://user:{SECRET}@host:1/?a=b#c", "http://host:1"),
        ("http://[::1]:8080/v1", "http://[::1]:8080"),
    ],
)
def test_the_base_url_has_no_credentials_and_no_v1(given: str, used: str) -> None:
    """With or without a trailing ``/`` or ``/v1``."""
    assert load_settings({"LOCALAI_URL": given}).base_url == used


def test_a_key_becomes_a_bearer_token() -> None:
    """The key is sent, and wins over credentials in the URL."""
    settings = load_settings(
        {"LOCALAI_API_KEY": SECRET, "LOCALAI_URL": "http://user:word@host"},
    )
    assert settings.authorization == f"Bearer {SECRET}"


def test_credentials_in_the_url_become_basic_authorization() -> None:
    """Percent-encoding is undone: RFC 7617's own example."""
    settings = load_settings({"LOCALAI_URL": "http://Aladdin:open%20sesame@host"})
    assert settings.authorization == "Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="


def test_no_secret_is_in_what_settings_print_as() -> None:
    """A record of settings may end in a log."""
    settings = load_settings(
        {"LOCALAI_API_KEY": SECRET, "LOCALAI_URL": f"http://user:{SECRET}@host"}
    )
    assert SECRET not in repr(settings)
    assert SECRET not in str(settings)


def test_models_are_told_by_type() -> None:
    """One default and one set for each of the four."""
    settings = load_settings(
        {
            "INFERENCE_MCP_TXT2TXT_MODEL": "qwen3-8b",
            "INFERENCE_MCP_IMG2IMG_MODELS": "sd15-edit, flux-dev,,",
        }
    )
    assert settings.default_models == {RequestType.TXT2TXT: "qwen3-8b"}
    assert settings.model_sets == {RequestType.IMG2IMG: ("sd15-edit", "flux-dev")}


def test_slots_are_told_by_model() -> None:
    """A name may hold an equals sign; the last one separates."""
    settings = load_settings({"INFERENCE_MCP_MODEL_CONCURRENCY": "qwen3-8b=4, a=b=2,"})
    assert settings.model_concurrency == {"qwen3-8b": 4, "a=b": 2}


def test_folders_are_split_at_the_path_separator_and_a_tilde_is_home() -> None:
    """As a shell would, for a host's ``env`` block knows no shell."""
    settings = load_settings({"INFERENCE_MCP_INPUT_ROOTS": f"{HERE}{os.pathsep} ~ {os.pathsep}"})
    assert settings.input_folders == (HERE, Path.home())


def test_the_output_folder_is_an_input_folder_by_default() -> None:
    """What was made can be used as input, wherever it is kept."""
    settings = load_settings({"INFERENCE_MCP_OUTPUT_DIR": str(HERE)})
    assert settings.output_folder == HERE
    assert settings.input_folders[0] == HERE
    assert all(folder.is_absolute() for folder in settings.input_folders)


def test_settings_cannot_be_changed() -> None:
    """One frozen record, read once."""
    with pytest.raises(ValueError, match="frozen"):
        load_settings({}).wait_s = 1  # type: ignore[misc]


def test_only_the_environment_that_was_given_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither another environment, nor a ``.env`` of the folder that a host starts us in."""
    (tmp_path / ".env").write_text("INFERENCE_MCP_WAIT_S=7\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("INFERENCE_MCP_WAIT_S", "8")
    assert load_settings({}).wait_s == 40
    assert load_settings().wait_s == 8
