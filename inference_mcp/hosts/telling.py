"""What ``inference-mcp config`` says and does: the snippet on stdout, all words on stderr.

So that stdout can be piped into a file. The file is changed only where that was asked for, and
no host's own command is ever run. It is given the settings as they stand in the environment,
without the key, of which it learns only whether there is one.
"""

from __future__ import annotations

import difflib
import io
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from inference_mcp.errors import HostError
from inference_mcp.hosts.commands import command_line, link
from inference_mcp.hosts.editing import with_entry
from inference_mcp.hosts.entries import Entry, by_command, by_url
from inference_mcp.hosts.facts import HOSTS, KEY, SEEN, SERVER, TOKEN, Host, place
from inference_mcp.hosts.files import rewrite
from inference_mcp.hosts.launching import Launch, find_launch, running
from inference_mcp.hosts.snippets import snippet

__all__ = ["Wanted", "run_config"]

FAILED = 1
MISUSED = 2


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What was asked for. ``env`` are settings to pass on; ``url`` makes it the URL form."""

    host: str | None
    write: bool = False
    simulate: bool = False
    url: str | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    key: bool = False


def run_config(wanted: Wanted, environ: Mapping[str, str], platform: str = sys.platform) -> int:
    """Tell a host's settings, or write them; gives the exit code."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")  # whatever a pipe's code page would be
    try:
        home = Path.home()
    except RuntimeError:
        home = Path()
    if not home.is_absolute() or home == Path(home.anchor):  # a variable that is empty or wrong
        _say("Your home folder is not known, and hosts keep their settings there.")
        return FAILED
    if wanted.host is None:
        _list(platform, home, environ)
        return 0
    host = next((each for each in HOSTS if each.name == wanted.host), None)
    if host is None:
        _say(_unknown(wanted.host))
        return MISUSED
    file = place(host, platform, home, environ)
    try:
        launch = find_launch(running(environ))
        entry = _entry(host, wanted, launch)
        if wanted.write:
            _write(host, entry, file)
        else:
            _show(host, entry, file, platform)
    except HostError as error:
        _say(str(error))
        return FAILED
    _warn(host, wanted, launch, entry)
    return 0


def _entry(host: Host, wanted: Wanted, launch: Launch) -> Entry:
    if wanted.url is not None:
        return by_url(host, wanted.url)
    started = launch.with_arguments("--simulate") if wanted.simulate else launch
    return by_command(host, started, wanted.env, key=wanted.key)


def _list(platform: str, home: Path, environ: Mapping[str, str]) -> None:
    print(f"usage: {SERVER} config HOST [--http] [--write]\n")  # noqa: T201
    for host in HOSTS:
        file = place(host, platform, home, environ)
        print(f"  {host.name:<15} {host.title:<15} {file}")  # noqa: T201


def _unknown(name: str) -> str:
    names = [host.name for host in HOSTS]
    near = difflib.get_close_matches(name.lower(), names, 1, 0.5)
    meant = f" Did you mean {near[0]}?" if near else ""
    shown = name if name.isprintable() else ascii(name)
    return f"{shown} is not among the hosts that are known.{meant} Known: {', '.join(names)}."


def _show(host: Host, entry: Entry, file: Path, platform: str) -> None:
    text = snippet(host, entry)
    command = command_line(host, entry, platform)
    opened = link(host, entry)
    print(text, end="", flush=True)  # noqa: T201
    where = f"{file} in a project's folder" if not file.is_absolute() else str(file)
    offer = "" if host.kept_off else "; --write puts it there"
    _say(f"for {host.title}, in {where}{offer}. Then {host.after}.")
    if command is not None:
        _add(f"Or let {host.title} add it: {command}")
    if opened is not None:
        _add(f"Or open: {opened}")
    _add(f"Known from {host.known}; {SEEN}.")


def _write(host: Host, entry: Entry, file: Path) -> None:
    if host.kept_off:
        raise HostError(_by_hand(host, entry, file))
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    try:
        done = rewrite(file, lambda text: with_entry(host, text, entry), stamp)
    except HostError as error:
        raise HostError(f"{file} is left as it was: {error}.") from None
    if not done.changed:
        _say(f"{done.file} has it already.")
        return
    _say(f"written to {done.file}. Now {host.after}.")
    if done.backup is not None:
        _add(f"What it was: {done.backup}")


def _by_hand(host: Host, entry: Entry, file: Path) -> str:
    ways = [f"add the snippet to {file} yourself"]
    if command := command_line(host, entry, sys.platform):
        ways = [f"run {command}"]
    elif opened := link(host, entry):
        ways.append(f"open {opened}")
    return f"Not written: {host.kept_off}. Instead, {', or '.join(ways)}"


def _warn(host: Host, wanted: Wanted, launch: Launch, entry: Entry) -> None:
    """What a person must know or do besides."""
    if entry.secret == KEY:
        _add(f"The key is not shown. {host.withheld}.")
    elif entry.secret == TOKEN:
        told = shlex.join([launch.command, *launch.arguments, "serve"])
        if host.asks or entry.placeholder:
            _add(f"The token is not shown. {host.withheld}. To see it: {told} --print-token")
        else:
            _add(f"The token is not shown. {host.withheld}, as {TOKEN}.")
            _add(f'In a shell: export {TOKEN}="$({told} --print-token)"')
        _add(f"The server must run: {told}")
    if launch.note and wanted.url is None:
        _add(launch.note)


def _say(text: str) -> None:
    print(f"{SERVER}: {text}", file=sys.stderr, flush=True)  # noqa: T201


def _add(text: str) -> None:
    print(f"  {text}", file=sys.stderr, flush=True)  # noqa: T201
