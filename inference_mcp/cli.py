"""The command line: arguments, exit codes, and what a person reads of them.

Without a command it serves MCP over stdio, which is what a host launches. Bad settings end
with one line on stderr and exit code 2, and nothing on stdout, for a host reads that.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from inference_mcp import __version__
from inference_mcp.errors import SettingsError, StartError

if TYPE_CHECKING:
    from inference_mcp.settings import Settings

__all__ = ["main"]

CANNOT_START = 1
BAD_SETTINGS = 2
INTERRUPTED = 130
"""What shells expect of a program that Ctrl-C ended."""

_SETTINGS = """\
settings (environment variables; in a host's "env" block):
  LOCALAI_URL                     LocalAI's base URL (http://localhost:8080)
  LOCALAI_API_KEY                 its key, if it wants one
  INFERENCE_MCP_TXT2TXT_MODEL     default model; likewise TXT2IMG, IMG2IMG, IMG2TXT
                                  (the alphabetically first that can)
  INFERENCE_MCP_TXT2TXT_MODELS    comma-separated models that can, where LocalAI cannot
                                  tell; likewise TXT2IMG, IMG2IMG, IMG2TXT
  INFERENCE_MCP_MAX_CONCURRENCY   requests at LocalAI at once (1)
  INFERENCE_MCP_MODEL_CONCURRENCY slots of single models: qwen3-8b=4,flux-dev=1 (1 each)
  INFERENCE_MCP_MAX_RESIDENT_MODELS
                                  models in LocalAI's memory at once, 0 for no limit
                                  (auto: LocalAI's own limit where it tells)
  INFERENCE_MCP_PREEMPTION        what may take a running request's place: type, class
                                  or off (type)
  INFERENCE_MCP_OVERDUE_NORMAL_S  seconds of waiting after which a request takes turns
                                  with the best rank (60)
  INFERENCE_MCP_OVERDUE_BATCH_S   the same for batch (300)
  INFERENCE_MCP_MAX_QUEUE         waiting requests; the next one is refused (256)
  INFERENCE_MCP_MAX_ATTEMPTS      tries of one request, the first included (3)
  INFERENCE_MCP_LOAD_TIMEOUT_S    seconds that a model may take to load (600)
  INFERENCE_MCP_TIMEOUT_S         seconds from submission to result (900)
  INFERENCE_MCP_WAIT_S            seconds until a call answers with a job id, 1-3600 (40)
  INFERENCE_MCP_SHARE             auto: one queue for all processes of this user with the
                                  same LocalAI; off: a queue of its own (auto)
  INFERENCE_MCP_OUTPUT_DIR        where pictures are kept (inference-mcp in Pictures)
  INFERENCE_MCP_INPUT_ROOTS       folders that pictures may be read from (the output
                                  folder, Pictures, Downloads, Desktop, the temp folder)
  INFERENCE_MCP_PREVIEW           picture inside a result: thumb, none or full (thumb)
  INFERENCE_MCP_RESULT_TTL_S      seconds that a result is kept (3600)
  INFERENCE_MCP_LOG_LEVEL         debug, info, warning, error or critical (info)
  INFERENCE_MCP_LOG_FILE          also log to this file, rotating (none)
"""


SWITCH_S = 0.0005
"""How long a thread that decodes a picture may keep the event loop from its turn, in seconds;
Python's own 5 ms, paid at each step of an answer, would be felt."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit code."""
    options = _parser().parse_args(argv)
    from inference_mcp.settings import load_settings

    try:
        settings = load_settings()
        port = _port(options.port) if options.command in ("serve", "config", "dashboard") else 0
    except SettingsError as error:
        _say(str(error))
        return BAD_SETTINGS

    if options.command == "config":
        return _config(settings, options, port)
    import anyio

    from inference_mcp import logs

    if options.command == "demo":
        from inference_mcp.demo import run_demo

        return _run(partial(run_demo, settings))
    if options.command == "doctor":
        from inference_mcp.doctor import run_doctor

        return _run(partial(run_doctor, settings, as_json=options.json, probe=options.probe))
    if options.command == "serve" and options.print_token:
        return _print_token(new=options.new_token)
    if options.command == "dashboard":
        return _dashboard(port, print_url=options.print_url)
    logs.configure(settings.log_level, settings.log_file)
    sys.setswitchinterval(SWITCH_S)
    if options.command == "serve":
        return _serve(settings, options, port)
    from inference_mcp.server import serve_stdio

    with contextlib.suppress(KeyboardInterrupt):  # before signals are heard, or where none are
        anyio.run(partial(serve_stdio, settings, simulate=options.simulate))
    return 0


def _config(settings: Settings, options: argparse.Namespace, port: int) -> int:
    """Tell or write a host's settings, with those of this environment but for what is secret."""
    from inference_mcp.hosts import Wanted, run_config
    from inference_mcp.settings import PREFIX

    given = {name.upper(): text.strip() for name, text in os.environ.items() if text.strip()}
    env = {name: text for name, text in given.items() if name.startswith(PREFIX)}
    if "LOCALAI_URL" in given:
        env = {"LOCALAI_URL": settings.base_url, **env}
    if settings.authorization is not None and settings.localai_api_key is None:
        _say("LOCALAI_URL's user and password are not shown; put them in yourself.")
    wanted = Wanted(
        host=options.host,
        write=options.write,
        simulate=options.simulate,
        url=f"http://127.0.0.1:{port}/mcp" if options.http else None,
        env=env,
        key=settings.localai_api_key is not None,
    )
    return run_config(wanted, os.environ)


def _serve(settings: Settings, options: argparse.Namespace, port: int) -> int:
    """Serve over HTTP; what a person needs to know comes once it listens."""
    import anyio

    from inference_mcp.web import open_doors, serve_http

    try:
        doors = open_doors(port, new_token=options.new_token)
    except StartError as error:
        _say(str(error))
        return CANNOT_START
    ready = partial(
        _say, _SERVING.format(url=doors.url, file=doors.token_file, port=_other(doors.port))
    )
    with contextlib.suppress(KeyboardInterrupt):
        anyio.run(partial(serve_http, settings, doors, simulate=options.simulate, ready=ready))
    return 0


def _other(port: int) -> str:
    return f" --port {port}" if port != 8765 else ""


_SERVING = """\
serving MCP at {url}/mcp
  Each request must bear the header "Authorization: Bearer TOKEN".
  The token is in {file}
  To see it: inference-mcp serve --print-token
  Monitoring, with the same header: {url}/health, /queue-status, /metrics
  The queue in your browser: inference-mcp dashboard{port}"""


def _print_token(*, new: bool) -> int:
    """The token alone on stdout, for a shell to fill in; the one case in which it is shown."""
    from inference_mcp.web.tokens import keep_token, token_file

    try:
        token = keep_token(token_file(), new=new)
    except StartError as error:
        _say(str(error))
        return CANNOT_START
    if new:
        _say("A server that runs keeps to the old token until it is started again.")
    print(token)  # noqa: T201
    return 0


def _dashboard(port: int, *, print_url: bool) -> int:
    """Open the page of the server that runs; an address goes to stdout, for a shell to take."""
    from inference_mcp.web.opening import open_dashboard

    try:
        url = open_dashboard(port, print_url=print_url, say=_say)
    except StartError as error:
        _say(str(error))
        return CANNOT_START
    if url is not None:
        print(url)  # noqa: T201
    return 0


def _port(text: str) -> int:
    """Raises ``SettingsError`` for what is no port."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 5 and int(text) <= 65535):
        raise SettingsError("--port takes a number from 0 to 65535; 0 takes any free port.")
    return int(text)


def _say(text: str) -> None:
    print(f"inference-mcp: {text}", file=sys.stderr, flush=True)  # noqa: T201


def _run(command: Callable[[], Awaitable[int]]) -> int:
    """Run a command that a person started and may stop with Ctrl-C."""
    import anyio

    try:
        return anyio.run(command)
    except KeyboardInterrupt:
        return INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="inference-mcp",
        description="MCP server for local inference on LocalAI: text, pictures and vision behind "
        "one priority queue. Without a command it serves MCP over stdio, as a host launches it.",
        epilog=_SETTINGS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"inference-mcp {__version__}")
    parser.add_argument("--simulate", action="store_true", help=_SIMULATE)
    commands = parser.add_subparsers(dest="command", metavar="command", title="commands")
    commands.add_parser(
        "demo", help="see all four kinds of inference at work on the built-in stand-in"
    )
    doctor = commands.add_parser("doctor", help="check the settings, LocalAI and the folders")
    doctor.add_argument("--json", action="store_true", help="one JSON object, for programs")
    doctor.add_argument(
        "--probe",
        action="store_true",
        help="also send LocalAI one tiny request of each type, past the queue, and time it",
    )
    serve = commands.add_parser(
        "serve", help="serve over HTTP on this machine, for hosts that take a URL"
    )
    serve.add_argument("--port", default="8765", help="8765 unless given; 0 takes any free one")
    serve.add_argument(
        "--new-token", action="store_true", help="replace the token that hosts must send"
    )
    serve.add_argument(
        "--print-token", action="store_true", help="print the token and serve nothing"
    )
    serve.add_argument("--simulate", action="store_true", default=argparse.SUPPRESS, help=_SIMULATE)
    _add_config(commands)
    dashboard = commands.add_parser(
        "dashboard", help="see the queue of the server that runs, in your browser"
    )
    dashboard.add_argument("--port", default="8765", help="the server's (8765)")
    dashboard.add_argument(
        "--print-url", action="store_true", help="print the address instead; it works once"
    )
    return parser


def _add_config(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    config = commands.add_parser(
        "config", help="print what a host's settings need to start this server, and where"
    )
    config.add_argument("host", nargs="?", help="which host; without it all are listed")
    config.add_argument(
        "--write", action="store_true", help="put it into the host's file, keeping a backup"
    )
    config.add_argument(
        "--http", action="store_true", help="the URL of 'serve' instead of a command"
    )
    config.add_argument("--port", default="8765", help="the port that 'serve' listens on (8765)")
    config.add_argument(
        "--simulate", action="store_true", default=argparse.SUPPRESS, help=_SIMULATE
    )


_SIMULATE = (
    "serve on the built-in LocalAI stand-in, to try a host without LocalAI; every result says "
    "that it is simulated"
)
