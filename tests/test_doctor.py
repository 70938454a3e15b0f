"""The doctor: each broken set-up fails with a next step, and that step, taken, mends it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import cast

import anyio
import pytest
from trio.testing import MockClock

from inference_mcp.backend import BackendHealth, ModelInfo
from inference_mcp.doctor import MODELS_LIMIT_S, Check, check_backend, examine, run_doctor
from inference_mcp.localai.client import LocalAIClient
from inference_mcp.requests import RequestType
from inference_mcp.settings import load_settings
from inference_mcp.simulator.faults import Fault
from inference_mcp.simulator.running import running
from inference_mcp.simulator.world import SimModel, World

CHAT = SimModel("qwen3-8b")
VISION = SimModel("llava", ("chat", "vision"), ("text", "image"))
IMAGE = SimModel("flux-dev", ("image",), output_modalities=("image",))
LOOSE = SimModel("my-weights", None)


@pytest.fixture
def folders(tmp_path: Path) -> dict[str, str]:
    """Settings of an output folder and an input root that are both fine."""
    (tmp_path / "in").mkdir()
    return {
        "INFERENCE_MCP_OUTPUT_DIR": str(tmp_path / "out"),
        "INFERENCE_MCP_INPUT_ROOTS": str(tmp_path / "in"),
    }


@asynccontextmanager
async def serving(
    *models: SimModel, keys: tuple[str, ...] = ()
) -> AsyncIterator[tuple[World, str]]:
    """A running stand-in and its URL; five seconds are its whole life."""
    world = World(models or (CHAT, VISION, IMAGE), api_keys=keys)
    with anyio.fail_after(5):
        async with running(world) as url:
            yield world, url


async def failures(environ: dict[str, str]) -> dict[str, Check]:
    """The checks that fail with these settings, by name; what could not be checked is left out."""
    checks = await examine(load_settings(environ))
    return {check.name: check for check in checks if not check.ok and not check.note}


async def details(environ: dict[str, str]) -> dict[str, str]:
    """What all checks say with these settings, by name."""
    return {check.name: check.detail for check in await examine(load_settings(environ))}


async def test_a_good_setup_passes_and_tells_what_each_type_would_use(
    folders: dict[str, str],
) -> None:
    """The default model of each type, and how it is known that it can."""
    async with serving() as (_, url):
        told = await details(folders | {"LOCALAI_URL": url, "INFERENCE_MCP_TXT2TXT_MODEL": "llava"})
        assert not await failures(folders | {"LOCALAI_URL": url})

    assert told["model_txt2txt"].startswith("llava (set by INFERENCE_MCP_TXT2TXT_MODEL;")
    assert told["model_txt2img"] == "flux-dev (the first that can; LocalAI says that it can)"
    assert "assumed" in told["model_img2img"]
    assert told["localai_version"] == "v4.9.0"
    assert "stand-in" in told["localai_reachable"]


async def test_localai_that_is_down_is_one_failure_until_the_url_is_set(
    folders: dict[str, str],
) -> None:
    """What follows from it is not checked, does not pass, and is no failure of its own."""
    async with serving() as (_, url):
        pass
    checks = await examine(load_settings(folders | {"LOCALAI_URL": url}))
    failed = [check for check in checks if not check.ok and not check.note]

    assert [check.name for check in failed] == ["localai_reachable"]
    assert "LOCALAI_URL" in failed[0].next_step
    unchecked = {check.name for check in checks if not check.ok and check.note}
    assert unchecked == {"localai_ready", "localai_key", "models"}
    async with serving() as (_, url):
        assert not await failures(folders | {"LOCALAI_URL": url})


async def test_a_refused_key_is_told_until_an_accepted_one_is_set(folders: dict[str, str]) -> None:
    """With none and with a wrong one; the model lists are not asked for."""
    async with serving(keys=("right",)) as (_, url):
        for wrong in ({}, {"LOCALAI_API_KEY": "wrong"}):
            failed = await failures(folders | {"LOCALAI_URL": url} | wrong)
            assert list(failed) == ["localai_key"]
            assert "LOCALAI_API_KEY" in failed["localai_key"].next_step

        environ = folders | {"LOCALAI_URL": url, "LOCALAI_API_KEY": "right"}
        assert not await failures(environ)
        assert (await details(environ))["localai_key"] == "accepted"


async def test_localai_that_still_starts_is_reachable_but_not_ready(
    folders: dict[str, str],
) -> None:
    """Its next step is to try again, and that is enough."""
    async with serving() as (world, url):
        world.inject(Fault(kind="refuse", path="/readyz", status=503))

        failed = await failures(folders | {"LOCALAI_URL": url})
        assert list(failed) == ["localai_ready"]
        assert "again" in failed["localai_ready"].next_step
        assert not await failures(folders | {"LOCALAI_URL": url})


async def test_something_else_on_the_port_is_not_taken_for_localai(
    folders: dict[str, str],
) -> None:
    """A web page instead of a model list."""
    page = {"status": 200, "body": "<html>hello</html>", "headers": {"content-type": "text/html"}}
    async with serving() as (world, url):
        for path in ("/readyz", "/version", "/v1/models"):
            world.inject(Fault(kind="refuse", path=path, **page))  # type: ignore[arg-type]

        failed = await failures(folders | {"LOCALAI_URL": url})
        assert list(failed) == ["localai_ready"]
        assert "LOCALAI_URL" in failed["localai_ready"].next_step


async def test_a_type_without_a_model_fails_and_names_its_variables(
    folders: dict[str, str],
) -> None:
    """LocalAI knows nothing of one model: naming that one, as suggested, mends it."""
    async with serving(CHAT, VISION, LOOSE) as (_, url):
        environ = folders | {"LOCALAI_URL": url}
        failed = await failures(environ)
        assert set(failed) == {"model_txt2img", "model_img2img"}
        step = failed["model_txt2img"].next_step
        for wanted in ("Install a model", "INFERENCE_MCP_TXT2IMG_MODEL", "my-weights"):
            assert wanted in step

        # An image model may change pictures too, so the one step mends both.
        environ["INFERENCE_MCP_TXT2IMG_MODEL"] = "my-weights"
        assert not await failures(environ)


async def test_localai_without_any_model_fails_for_all_four_types(folders: dict[str, str]) -> None:
    """Nothing can be suggested but to install one."""
    async with serving(SimModel("off", disabled=True)) as (_, url):
        failed = await failures(folders | {"LOCALAI_URL": url})

    assert set(failed) == {f"model_{kind.value}" for kind in RequestType}
    assert all("Install a model" in check.next_step for check in failed.values())


@pytest.mark.parametrize("name", ["nope", "off"])
async def test_a_default_that_is_missing_or_disabled_fails_until_it_is_unset_or_set_right(
    folders: dict[str, str], name: str
) -> None:
    """The step's two ways both mend it (trap 2: names are compared whole)."""
    async with serving(CHAT, VISION, IMAGE, SimModel("off", disabled=True)) as (_, url):
        environ = folders | {"LOCALAI_URL": url}
        failed = await failures(environ | {"INFERENCE_MCP_TXT2TXT_MODEL": name})
        assert list(failed) == ["model_txt2txt"]
        assert name in failed["model_txt2txt"].detail
        step = failed["model_txt2txt"].next_step
        assert step.startswith("Unset INFERENCE_MCP_TXT2TXT_MODEL,")
        suggested = step.rpartition("such as ")[2].rstrip(".").split(", ")

        assert not await failures(environ)
        for model in suggested:
            assert not await failures(environ | {"INFERENCE_MCP_TXT2TXT_MODEL": model})


async def test_a_model_set_of_strangers_fails_and_single_strangers_are_noted(
    folders: dict[str, str],
) -> None:
    """A misspelled name among good ones does no harm, but nobody wanted it."""
    async with serving() as (_, url):
        environ = folders | {"LOCALAI_URL": url}
        failed = await failures(environ | {"INFERENCE_MCP_TXT2IMG_MODELS": "flux"})
        assert failed["model_txt2img"].next_step.startswith("Unset INFERENCE_MCP_TXT2IMG_MODELS,")

        environ["INFERENCE_MCP_TXT2IMG_MODELS"] = "flux, flux-dev"
        assert not await failures(environ)
        assert "flux, which" in (await details(environ))["model_names"]
        environ = folders | {"LOCALAI_URL": url, "INFERENCE_MCP_MODEL_CONCURRENCY": "qwn=2"}
        assert "qwn" in (await details(environ))["model_names"]


async def test_an_output_folder_under_a_file_fails_until_another_is_set(
    folders: dict[str, str], tmp_path: Path
) -> None:
    """Its parent is a regular file."""
    (tmp_path / "file").touch()
    async with serving() as (_, url):
        environ = folders | {"LOCALAI_URL": url}
        environ["INFERENCE_MCP_OUTPUT_DIR"] = str(tmp_path / "file" / "out")
        failed = await failures(environ)
        assert list(failed) == ["output_folder"]
        assert "INFERENCE_MCP_OUTPUT_DIR" in failed["output_folder"].next_step

        environ["INFERENCE_MCP_OUTPUT_DIR"] = str(tmp_path / "out")
        assert not await failures(environ)


async def test_a_root_that_was_named_must_be_a_folder(
    folders: dict[str, str], tmp_path: Path
) -> None:
    """Missing, or a file; made or taken out of the list, it passes."""
    (tmp_path / "file").touch()
    async with serving() as (_, url):
        for wrong in ("missing", "file"):
            roots = [str(tmp_path / "in"), str(tmp_path / wrong)]
            environ = folders | {"LOCALAI_URL": url}
            failed = await failures(environ | {"INFERENCE_MCP_INPUT_ROOTS": os.pathsep.join(roots)})
            assert list(failed) == ["input_root"]
            assert "INFERENCE_MCP_INPUT_ROOTS" in failed["input_root"].next_step
            assert not await failures(environ)

        (tmp_path / "missing").mkdir()
        environ["INFERENCE_MCP_INPUT_ROOTS"] = str(tmp_path / "missing")
        assert not await failures(environ)


@pytest.mark.parametrize(
    ("asked", "own", "told"),
    [
        ("auto", 2, "2, as LocalAI itself"),
        ("auto", 0, "no limit, as LocalAI itself"),
        ("1", 2, "1 at once, as set"),
        ("3", 2, "above LocalAI's own 2"),
        ("0", 2, "above LocalAI's own 2"),
        ("3", 0, "3 at once, as set"),
    ],
)
async def test_the_models_in_memory_are_told_and_more_than_localai_keeps_is_noted(
    folders: dict[str, str], asked: str, own: int, told: str
) -> None:
    """Above LocalAI's own limit it loads beside busy models (trap 15); that is no failure."""
    async with serving() as (world, url):
        world.max_active_backends = own
        environ = folders | {"LOCALAI_URL": url, "INFERENCE_MCP_MAX_RESIDENT_MODELS": asked}
        checks = {check.name: check for check in await examine(load_settings(environ))}

    found = checks["resident_models"]
    assert told in found.detail
    assert found.ok
    assert found.note is bool(found.next_step) is ("above" in told)


@pytest.mark.parametrize("as_json", [False, True])
async def test_neither_the_key_nor_credentials_are_shown(
    folders: dict[str, str], as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """In either form, whether LocalAI takes them or not."""
    secrets = ("sk-right", "sk-wrong", "user-name", "pass-word")
    async with serving(keys=("sk-right",)) as (_, url):
        url = url.replace("http://", "http://user-name:pass-word@")
        for key, code in (("sk-right", 0), ("sk-wrong", 1)):
            environ = folders | {"LOCALAI_URL": url, "LOCALAI_API_KEY": key}
            assert await run_doctor(load_settings(environ), as_json=as_json) == code

    told = "".join(capsys.readouterr())
    assert "127.0.0.1" in told
    assert not [secret for secret in secrets if secret in told]


async def test_json_is_one_object_with_the_promised_fields(
    folders: dict[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    """``ok`` is that of all checks together."""
    async with serving(CHAT) as (_, url):
        settings = load_settings(folders | {"LOCALAI_URL": url})
        assert await run_doctor(settings, as_json=True) == 1

    told = json.loads(capsys.readouterr().out)
    assert set(told) == {"ok", "version", "checks"}
    assert told["ok"] is False
    for check in told["checks"]:
        assert set(check) == {"name", "ok", "detail", "next_step"}
    assert {check["name"] for check in told["checks"] if not check["ok"]} == {
        "model_txt2img",
        "model_img2img",
        "model_img2txt",
    }


def test_the_command_tells_a_line_for_each_check_and_the_step_under_a_failure(
    tmp_path: Path,
) -> None:
    """With an empty home and LocalAI down; default roots that are missing are only notes."""
    env = {name: os.environ[name] for name in ("PATH", "SYSTEMROOT") if name in os.environ}
    env |= {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}
    env |= {"LOCALAI_URL": "http://127.0.0.1:9", "INFERENCE_MCP_OUTPUT_DIR": str(tmp_path / "out")}
    command = [sys.executable, "-m", "inference_mcp", "doctor"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=20, check=False)

    assert (done.returncode, done.stderr) == (1, "")
    lines = done.stdout.splitlines()
    (at,) = [number for number, line in enumerate(lines) if line.startswith("FAIL")]
    assert lines[at].startswith("FAIL  localai reachable: ")
    assert lines[at + 1].startswith("      -> ")
    assert all(
        line.startswith(("ok    ", "note  ", "warn  ", "FAIL  ", "      ->"))
        for line in lines[1:-1]
    )


class _Hanging:
    """As much of a backend as is asked: it is healthy and never lists its models."""

    async def check_health(self) -> BackendHealth:
        return BackendHealth(reachable=True, ready=True, key_accepted=True)

    async def list_models(self, *, refresh: bool = False) -> tuple[ModelInfo, ...]:
        await anyio.sleep_forever()
        return ()


@pytest.mark.parametrize("anyio_backend", [("trio", {"clock": MockClock(autojump_threshold=0)})])
async def test_localai_that_hangs_does_not_hold_the_doctor_up() -> None:
    """The lists have a time of their own; in virtual time."""
    began = anyio.current_time()
    checks = await check_backend(cast("LocalAIClient", _Hanging()), load_settings({}))

    assert anyio.current_time() - began == pytest.approx(MODELS_LIMIT_S)
    assert [check.name for check in checks if not check.ok] == ["models"]
    assert checks[-1].next_step
