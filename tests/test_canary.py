"""No prompt, path, key, picture or credential leaves: through no tool, log line, error or crash.

Each test drives the real program against the stand-in, puts canaries wherever content or a
secret goes in, and searches whatever comes out. What may come back, and only to the caller of
that very call, is named in ``MAY_RETURN`` with its reason.
"""

from __future__ import annotations

import base64
import io
import json
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from inference_mcp.simulator.faults import Fault
from inference_mcp.simulator.running import running
from inference_mcp.simulator.world import World
from tests.canaries import PLACES, found, leaks, text, word
from tests.processes import COMMAND, Raw, environment
from tests.simulator.serving import recorded_world

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="Windows knows no such signals")

MAY_RETURN: Mapping[str, frozenset[str]] = {
    "answer": frozenset({"prompt", "messages", "schema"}),  # the text itself may quote them
    "own path": frozenset({"path"}),  # an error names the caller's own path, so that it can act
    "own names": frozenset({"argname", "nested"}),  # a misspelled parameter must be told
    "own model": frozenset({"model"}),  # likewise a misspelled model
    "picture": frozenset({"prompt", "negative"}),  # a PNG's own text chunks hold its prompts
    "own id": frozenset({"rpcid"}),  # an answer bears its call's id
    "own uri": frozenset({"resource"}),  # "not found" bears the URI that was asked for
    "own token": frozenset({"token"}),  # progress bears the token that its call asked for
    "nothing": frozenset(),
}

KEY, USER, PASSWORD = word("key"), word("user"), word("password")


def quoting(*places: str) -> str:
    """What an error of LocalAI's may say: it quotes the request, paths and keys (trap 22)."""
    told = " ".join(text(place) for place in (*places, "backend"))
    return json.dumps({"error": {"code": 500, "message": told, "type": told, "param": told}})


@dataclass(eq=False)
class Driver:
    """A host that searches all that it is sent; ``leaked`` is what must not have come."""

    raw: Raw
    leaked: list[str] = field(default_factory=list)
    number: int = 0

    async def ask(
        self, method: str, params: Mapping[str, Any], may: str = "nothing", id_: Any = None
    ) -> dict[str, Any]:
        """Ask, offer a root if asked for one, and search all that comes until the answer."""
        self.number += 1
        id_ = self.number if id_ is None else id_
        message = {"jsonrpc": "2.0", "id": id_, "method": method, "params": params}
        await self.raw.send(message)
        return await self.until(id_, may, f"{self.number} {method} {params.get('name', '')}")

    async def until(self, id_: Any, may: str, what: str) -> dict[str, Any]:
        """Read on to the answer of a call."""
        while True:
            message = await self.raw.receive()
            line = self.raw.lines[-1]
            if told := [place for place in found(line) if place not in MAY_RETURN[may]]:
                self.leaked.append(f"{what} told {told}: {line[:1000]!r}")
            if message.get("method") == "roots/list":
                await self.offer_root(message["id"])
            elif message.get("id") == id_ and "method" not in message:
                return message

    async def offer_root(self, id_: Any) -> None:
        """A folder that is not there."""
        roots = [{"uri": f"file:///{word('root')}", "name": text("root")}]
        await self.raw.send({"jsonrpc": "2.0", "id": id_, "result": {"roots": roots}})

    async def call(self, tool: str, may: str = "nothing", **arguments: Any) -> dict[str, Any]:
        """Call a tool; its result, or the error."""
        params = {"name": tool, "arguments": arguments, "_meta": {"progressToken": self.number}}
        answer = await self.ask("tools/call", params, may)
        result: dict[str, Any] = answer.get("result") or answer["error"]
        return result

    async def initialize(self) -> None:
        """The handshake, with a name and a root to offer."""
        info = {"name": text("client"), "version": text("client")}
        await self.ask(
            "initialize",
            {
                "protocolVersion": "2025-06-18",
                "capabilities": {"roots": {"listChanged": True}},
                "clientInfo": info,
            },
        )
        await self.raw.send({"jsonrpc": "2.0", "method": "notifications/initialized"})

    async def look_at_everything(self) -> None:
        """Every status tool and resource, none of which may tell anything of any request."""
        for tool in ("list_models", "get_queue_status", "get_request_metrics", "get_health"):
            await self.call(tool)
        await self.call("get_error_metrics", limit=100)
        listed = await self.ask("resources/list", {})
        for resource in listed["result"]["resources"]:
            picture = "images" in resource["uri"]
            may = "picture" if picture else "nothing"
            await self.ask("resources/read", {"uri": resource["uri"]}, may)
        for method in ("tools/list", "resources/templates/list", "ping"):
            await self.ask(method, {})
        reference = {"type": "ref/resource", "uri": "inference://images/{id}"}
        for name in ("id", "model"):
            argument = {"name": name, "value": ""}
            await self.ask("completion/complete", {"ref": reference, "argument": argument})


@asynccontextmanager
async def driven(world: World, folder: Path, **settings: object) -> AsyncIterator[Driver]:
    """The program with its log on debug, in two places; both are searched at the end."""
    (folder / "cwd").mkdir(exist_ok=True)
    async with running(world) as url:
        env = environment(
            url.replace("://", f"://{USER}:{PASSWORD}@"),
            folder,
            LOCALAI_API_KEY=KEY,
            LOG_LEVEL="debug",
            LOG_FILE=folder / "log" / "inference.log",
            MAX_ATTEMPTS=2,
            **settings,
        )
        env["PYTHONASYNCIODEBUG"] = "1"  # the event loop says more, and must not say that
        with (folder / "stderr").open("ab") as errlog, anyio.fail_after(50):
            async with await anyio.open_process(
                COMMAND, stdin=subprocess.PIPE, stderr=errlog, env=env, cwd=folder / "cwd"
            ) as process:
                driver = Driver(Raw(process))
                try:
                    await driver.initialize()
                    yield driver
                    assert process.stdin is not None
                    await process.stdin.aclose()
                    await process.wait()
                finally:
                    if process.returncode is None:
                        process.kill()
    assert not driver.leaked, "\n".join(driver.leaked)
    assert leaks(left_behind(folder)) == {}


def left_behind(folder: Path) -> dict[str, bytes]:
    """What a run left: its log, its stderr, whatever lies where it ran, and all names.

    What is in a picture of the output folder is its text chunks (``MAY_RETURN``), and what is in
    ``given`` was put there by the test.
    """
    files = [each for each in sorted(folder.rglob("*")) if "given" not in each.parts]
    names = {f"name of {each.name}": str(each.relative_to(folder)).encode() for each in files}
    read = [each for each in files if each.is_file() and "pictures" not in each.parts]
    return names | {str(each.relative_to(folder)): each.read_bytes() for each in read}


@pytest.fixture
def world() -> World:
    """The models of the recordings; the key is asked for."""
    return recorded_world(api_keys=[KEY])


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A picture with a text in it, in a folder and under a name that are nobody's business."""
    info = PngInfo()
    info.add_text("parameters", text("pngtext"))
    info.add_itxt("Comment", text("pngtext"), zip=False)
    folder = tmp_path / "given" / word("path")
    folder.mkdir(parents=True)
    path = folder / f"{word('path')}.png"
    Image.new("RGB", (64, 64), "red").save(path, pnginfo=info)
    return path


def data_uri(picture: Path, **text_of: str) -> str:
    """A picture that is named by its own bytes, which hold a canary."""
    info = PngInfo()
    info.add_text("parameters", text("datauri"))
    made = io.BytesIO()
    with Image.open(picture) as opened:
        opened.save(made, "PNG", pnginfo=info)
    return "data:image/png;base64," + base64.b64encode(made.getvalue()).decode()


CHAT: Mapping[str, Any] = {
    "prompt": text("prompt"),
    "system": text("system"),
    "stop": [text("stop")[:60]],
    "seed": 7,
}
TALK: Mapping[str, Any] = {
    "messages": [
        {"role": "user", "content": text("messages")},
        {"role": "assistant", "content": text("assistant")},
        {"role": "user", "content": text("messages")},
    ]
}
DRAW: Mapping[str, Any] = {
    "prompt": text("prompt"),
    "negative_prompt": text("negative"),
    "width": 64,
    "height": 64,
}
SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "title": text("schema"),
    "properties": {"a": {"type": "string", "const": text("schema"), "description": text("schema")}},
    "required": ["a"],
}


# --- what goes well -----------------------------------------------------------------------


async def test_what_goes_well_tells_nothing(world: World, picture: Path, tmp_path: Path) -> None:
    """All four types in all ways to ask; answers go to their callers, and nowhere else."""
    async with driven(world, tmp_path, OUTPUT_DIR=tmp_path / "pictures") as host:
        await host.call("txt2txt", "answer", **CHAT)
        await host.call("txt2txt", "answer", **TALK)
        await host.call("txt2img", **DRAW)
        for image in (str(picture), data_uri(picture)):
            await host.call("img2img", **DRAW, image=image)
            described = await host.call("img2txt", "answer", prompt=text("prompt"), image=image)
            assert not described.get("isError")
        queued = await host.call("txt2txt", **CHAT, wait_seconds=0)
        await host.call("get_job", "answer", job_id=queued["_meta"]["inference-mcp/job"]["job_id"])
        await host.look_at_everything()
    drawn = [each.read_bytes() for each in (tmp_path / "pictures").rglob("*.png")]
    assert any(word("prompt").encode() in each for each in drawn), "there were canaries to find"
    assert not any(found(each, {"pngtext", "datauri", "path"}) for each in drawn)


# --- what the caller does wrong -----------------------------------------------------------


async def test_what_a_caller_does_wrong_tells_nothing(
    world: World, picture: Path, tmp_path: Path
) -> None:
    """Bad arguments, pictures, names, ids and lines; an error quotes the caller's own words."""
    missing = picture.with_name(f"{word('path')}-missing.png")
    broken = picture.with_name(f"{word('path')}-broken.png")
    broken.write_bytes(b"\x89PNG\r\n\x1a\n no more of it")
    async with driven(world, tmp_path) as host:
        for image in (missing, broken, picture.parent, f"/{word('path')}/elsewhere.png"):
            await host.call("img2txt", "own path", image=str(image))
        for uri in (
            f"data:image/png;base64,{text('datauri')}",
            f"data:{text('mime')};base64,AAAA",
            f"data:image/png;base64,{base64.b64encode(text('datauri').encode()).decode()}",
            f"https://{word('user')}:{word('password')}@example.invalid/{word('datauri')}.png",
        ):
            await host.call("img2txt", image=uri, prompt=text("prompt"))
        for image in (f"inference://images/{word('path')}", f"file:///{word('path')}.png"):
            await host.call("img2txt", "own path", image=image, prompt=text("prompt"))
        await host.call("txt2txt", "own names", prompt="x", **{word("argname"): text("argvalue")})
        extra = {"role": "user", "content": "x", word("nested"): text("argvalue")}
        await host.call("txt2txt", "own names", messages=[extra])
        for wrong in (
            {"prompt": [text("argvalue")]},
            {"prompt": {word("argvalue"): text("argvalue")}},
            {"prompt": "x", "priority": text("argvalue")},
            {"prompt": "x", "seed": text("argvalue")},
            {"prompt": f"{text('prompt')}|{text('prompt')}", "width": 64},
            {"messages": [{"role": text("argvalue"), "content": "x"}]},
            {"prompt": "x", "response_schema": {"$ref": f"http://x.invalid/{word('schema')}"}},
            {"prompt": "x", "response_schema": {"type": text("schema")}},
            {"prompt": "x", "response_schema": {"pattern": f"({text('schema')}"}},
        ):
            await host.call("txt2txt", **wrong)
        await host.call("txt2img", prompt=f"{text('prompt')}|b")
        await host.call("txt2txt", "own model", prompt="x", model=word("model"))
        await host.call("get_job", job_id=text("jobid"))
        await host.call("cancel_job", job_id=word("jobid"))
        await host.ask("tools/call", {"name": word("tool"), "arguments": {}})
        await host.ask("tools/call", {"name": {"a": text("tool")}, "arguments": text("argvalue")})
        await host.ask("resources/read", {"uri": f"inference://{word('resource')}"}, "own uri")
        await host.ask("resources/read", {"uri": text("resource")}, "own uri")
        await host.ask("resources/list", {"cursor": text("cursor")})
        reference = {"type": "ref/resource", "uri": text("completion")}
        argument = {"name": text("completion"), "value": text("completion")}
        await host.ask("completion/complete", {"ref": reference, "argument": argument})
        await host.ask("logging/setLevel", {"level": text("argvalue")})
        await host.ask("tools/call", {"name": "get_health"}, "own id", text("rpcid"))
        token = {"progressToken": text("token")}
        chat = {"name": "txt2txt", "arguments": {"prompt": "Hello"}, "_meta": token}
        await host.ask("tools/call", chat, "own token")
        await host.raw.send(f'{{"jsonrpc": "2.0", "id": 900, "method": {text("method")}'.encode())
        await host.raw.send({"jsonrpc": "2.0", "method": f"notifications/{word('method')}"})
        await host.raw.send({"jsonrpc": "2.0", "id": 901, "result": {"a": text("argvalue")}})
        await host.look_at_everything()


# --- what LocalAI does wrong --------------------------------------------------------------

_SAID = quoting("prompt", "messages", "system", "negative", "path", "pngtext", "key", "password")

FAULTS: Mapping[str, Mapping[str, Any]] = {
    **{str(status): {"kind": "refuse", "status": status} for status in (400, 404, 413, 429, 500)},
    "html": {"kind": "refuse", "status": 502, "headers": {"content-type": "text/html"}},
    "ok but no answer": {"kind": "refuse", "status": 200},
    "redirect": {"kind": "refuse", "status": 302, "headers": {"location": f"/{word('header')}"}},
    "header": {
        "kind": "refuse",
        "status": 503,
        "headers": {"retry-after": word("header"), "date": word("header"), "x": word("header")},
    },
    "type": {"kind": "content_type"},
    "cut": {"kind": "cut"},
    "cut json": {"kind": "cut_json"},
    "reset": {"kind": "reset_after_headers"},
}


async def test_what_localai_does_wrong_tells_nothing(
    world: World, picture: Path, tmp_path: Path
) -> None:
    """Trap 22: its errors quote the prompt, the server's paths and the key."""
    async with driven(world, tmp_path) as host:
        for name, fault in FAULTS.items():
            body = _SAID if name != "type" else word("header")
            for tool, arguments in (
                ("txt2txt", CHAT),
                ("txt2img", DRAW),
                ("img2txt", {"image": str(picture), "prompt": text("prompt")}),
            ):
                world.inject(Fault(**fault, body=body))
                await host.call(tool, "answer" if tool != "txt2img" else "nothing", **arguments)
        for path in ("/models", "/capabilities", "/system", "/readyz", "/settings", "/version"):
            world.inject(Fault(kind="refuse", path=path, status=500, body=_SAID, times=3))
            await host.look_at_everything()
        for command in ("!errmid", "!ctx", "!crash", "!empty", "!think !errmid"):
            await host.call("txt2txt", "answer", prompt=f"{command} {text('prompt')}")
        await host.call("txt2img", **{**DRAW, "prompt": f"!err {text('prompt')}"})
        await host.call("txt2txt", "answer", prompt=text("prompt"), response_schema=SCHEMA)
        await host.look_at_everything()


async def test_a_cancel_tells_nothing(world: World, tmp_path: Path) -> None:
    """Nor does its reason; the job is told as cancelled."""
    world.hold("qwen3-8b")
    async with driven(world, tmp_path) as host:
        call = {"name": "txt2txt", "arguments": CHAT}
        await host.raw.send({"jsonrpc": "2.0", "id": 99, "method": "tools/call", "params": call})
        with anyio.fail_after(10):
            await world.wait_for_event("stream_start")
        cancel = {"requestId": 99, "reason": text("reason")}
        await host.raw.send(
            {"jsonrpc": "2.0", "method": "notifications/cancelled", "params": cancel}
        )
        await host.look_at_everything()


@pytest.mark.parametrize("options", [[], ["--json"], ["--probe"]])
@pytest.mark.parametrize("well", [True, False])
async def test_doctor_tells_nothing(
    options: list[str], well: bool, world: World, tmp_path: Path
) -> None:
    """Neither the key nor the URL's credentials, nor what LocalAI says of them."""
    async with running(world) as url:
        if not well:
            for path in ("/models", "/capabilities", "/system", "/readyz", "/version", None):
                world.inject(Fault(kind="refuse", path=path, status=500, body=_SAID, times=9))
        address = url.replace("://", f"://{USER}:{PASSWORD}@")
        env = environment(address, tmp_path, LOCALAI_API_KEY=KEY)
        with anyio.fail_after(40):
            done = await anyio.run_process([*COMMAND, "doctor", *options], env=env, check=False)
    assert done.returncode == (0 if well else 1)
    assert leaks({"stdout": done.stdout, "stderr": done.stderr}) == {}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("LOCALAI_URL", f"ftp://{USER}:{PASSWORD}@x/"),
        ("LOCALAI_URL", f"http://{USER}:{PASSWORD}@x:99999/"),
        ("LOCALAI_API_KEY", f"{KEY} é"),
        ("INFERENCE_MCP_LOG_LEVEL", word("argvalue")),
        ("INFERENCE_MCP_OUTPUT_DIR", word("path")),
    ],
)
def test_a_bad_setting_tells_nothing(name: str, value: str, tmp_path: Path) -> None:
    """The variable is named, and what it takes; never what it holds."""
    env = environment("http://127.0.0.1:9", tmp_path) | {name: value}
    done = subprocess.run(COMMAND, env=env, capture_output=True, timeout=30, check=False)
    assert done.returncode == 2
    assert leaks({"stdout": done.stdout, "stderr": done.stderr}) == {}


# --- crashes ------------------------------------------------------------------------------

CRASHING = """
import sys
from inference_mcp import cli
{plant}
sys.exit(cli.main([]))
"""

FAULT = f"raise RuntimeError({text('fault')!r})"

PLANTS: Mapping[str, str] = {
    "in a tool": f"""
from inference_mcp.surface import calls
async def fail(*_, **__): {FAULT}
calls.txt2txt = fail
""",
    "in a job": f"""
from inference_mcp.localai.client import LocalAIClient
async def fail(*_, **__): {FAULT}
LocalAIClient.generate_text = fail
""",
    "in a request": f"""
from inference_mcp.surface.resources import Resources
async def fail(*_, **__): {FAULT}
Resources.list = fail
""",
    "in the list of tools": f"""
from inference_mcp.server import assembly
def fail(*_, **__): {FAULT}
assembly._once = lambda do: fail
""",
    "in a thread": f"""
from inference_mcp.server import stdio
def fail(*_, **__): {FAULT}
stdio.read_message = fail
""",
    "in a task of the server": f"""
import anyio
from inference_mcp.server import serving
async def fail(host, end):
    await anyio.sleep(0.3)
    {FAULT}
serving._read_to_the_end = fail
""",
    "in a task that nobody waits for": f"""
import asyncio
from inference_mcp.server import serving
before = serving._read_to_the_end
async def read(host, end):
    async def fail(): {FAULT}
    asyncio.ensure_future(fail())
    asyncio.get_running_loop().call_soon(lambda: 1 / 0)
    await before(host, end)
serving._read_to_the_end = read
""",
    "at the start": f"""
import anyio
def fail(*_, **__): {FAULT}
anyio.run = fail
""",
    "in the log itself": f"""
from inference_mcp.logs import events
def fail(*_, **__): {FAULT}
events._end = fail
""",
}
CODES = {"in a task of the server": 1, "at the start": 1}


@pytest.mark.parametrize("where", PLANTS)
async def test_a_fault_of_our_own_tells_where_and_not_what(
    where: str, world: World, tmp_path: Path
) -> None:
    """A tool, a job, a request, a thread, a task; the exit code says whether it was the end."""
    lines: list[dict[str, Any]] = [
        {"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": _HELLO},
        {"jsonrpc": "2.0", "method": "notifications/initialized"},
        {"jsonrpc": "2.0", "id": 1, "method": "tools/list"},
        {"jsonrpc": "2.0", "id": 2, "method": "resources/list"},
        {"jsonrpc": "2.0", "id": 3, "method": "tools/call", "params": _CHAT},
        {
            "jsonrpc": "2.0",
            "id": 4,
            "method": "tools/call",
            "params": {"name": "get_error_metrics"},
        },
    ]
    errlog = tmp_path / "stderr"
    async with running(world) as url:
        env = environment(url, tmp_path, LOCALAI_API_KEY=KEY, LOG_LEVEL="debug")
        command = [sys.executable, "-c", CRASHING.format(plant=PLANTS[where])]
        with errlog.open("wb") as stderr, anyio.fail_after(30):
            async with await anyio.open_process(
                command, stdin=subprocess.PIPE, stderr=stderr, env=env
            ) as process:
                raw = Raw(process)
                with suppress(anyio.EndOfStream, anyio.IncompleteRead, anyio.BrokenResourceError):
                    for line in lines:
                        await raw.send(line)
                        if "id" in line:
                            await raw.answer(line["id"])
                assert process.stdin is not None
                with suppress(anyio.BrokenResourceError):
                    await process.stdin.aclose()
                code = await process.wait()
                outputs = {"stdout": b"".join(raw.lines), "stderr": errlog.read_bytes()}
    assert leaks(outputs) == {}
    assert code == CODES.get(where, 0)
    assert b"Traceback" not in outputs["stderr"]
    told = [json.loads(line) for line in outputs["stderr"].splitlines()]
    assert any("RuntimeError at " in json.dumps(line) for line in told), "where it was is told"


_HELLO = {
    "protocolVersion": "2025-06-18",
    "capabilities": {},
    "clientInfo": {"name": "test", "version": "1"},
}
_CHAT = {"name": "txt2txt", "arguments": {"prompt": "Hello"}}


@POSIX
async def test_an_abort_tells_nothing(world: World, tmp_path: Path) -> None:
    """SIGABRT while a chat runs, with Python's own fault handler on: places, and no content."""
    world.hold("qwen3-8b")
    async with running(world) as url:
        env = environment(url, tmp_path, LOCALAI_API_KEY=KEY, LOG_LEVEL="debug")
        env |= {"PYTHONFAULTHANDLER": "1"}
        errlog = tmp_path / "stderr"
        with errlog.open("wb") as stderr, anyio.fail_after(30):
            async with await anyio.open_process(
                COMMAND, stdin=subprocess.PIPE, stderr=stderr, env=env, cwd=tmp_path
            ) as process:
                raw = Raw(process)
                await raw.initialize()
                call = {"name": "txt2txt", "arguments": CHAT}
                await raw.send({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": call})
                await world.wait_for_event("stream_start")
                process.send_signal(signal.SIGABRT)
                assert await process.wait() == -signal.SIGABRT
    assert b"Fatal Python error: Aborted" in errlog.read_bytes()
    assert leaks(left_behind(tmp_path)) == {}


# --- the search itself --------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
def test_the_search_finds_each_form(place: str) -> None:
    """As it is, in JSON, in a URL, in hex, and in base64 wherever it begins."""
    plain = text(place)
    forms = [plain.encode(), json.dumps(plain).encode(), plain.encode().hex().encode()]
    forms += ["".join(f"%{byte:02X}" for byte in plain.encode()).encode()]
    forms += [base64.b64encode(b"x" * before + plain.encode()) for before in range(6)]
    forms += [base64.urlsafe_b64encode(b"?" * before + plain.encode()) for before in range(6)]
    assert all(found(b"before " + form + b" after") == [place] for form in forms)
    assert found(b"nothing of it") == []
