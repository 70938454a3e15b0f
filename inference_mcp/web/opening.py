"""``inference-mcp dashboard``: asks the server that runs for a code, and opens the browser.

It speaks plain HTTP to this machine, past any proxy, and reads no more than a code. Above is
``cli``; it knows the server by its port and the token's file alone.
"""

from __future__ import annotations

import http.client
import json
import re
import webbrowser
from collections.abc import Callable
from contextlib import closing

from inference_mcp.errors import StartError
from inference_mcp.web.tokens import keep_token, token_file

__all__ = ["dashboard_url", "open_dashboard"]

PATIENCE_S = 5.0
"""A server on this machine that has not answered by then hangs."""

_MAX_ANSWER_BYTES = 10_000
_CODE = re.compile(r"[A-Za-z0-9_-]{32}")


def dashboard_url(port: int) -> str:
    """An address that lets one browser in, within a minute.

    Raises:
        StartError: no server answers there, or it is another one.
    """
    file = token_file()
    if not file.exists():
        raise StartError(_not_running(port))
    status, answer = _ask(port, keep_token(file))
    if status == 401:
        raise StartError(
            f"The server on port {port} does not take the token in {file}: it was started with "
            "another one. Start it again: inference-mcp serve"
        )
    code = answer.get("code") if isinstance(answer, dict) else None
    if status != 200 or not isinstance(code, str) or _CODE.fullmatch(code) is None:
        raise StartError(
            f"What listens on port {port} is no inference-mcp of this version. Start it again, "
            "or name another port with --port."
        )
    return f"http://127.0.0.1:{port}/dashboard/enter?code={code}"


def open_dashboard(
    port: int,
    *,
    print_url: bool,
    say: Callable[[str], None],
    show: Callable[[str], bool] = webbrowser.open,
) -> str | None:
    """Open the browser; the address where none opens, or where it was asked for.

    Raises:
        StartError: as ``dashboard_url``.
    """
    url = dashboard_url(port)
    if print_url:
        return url
    try:
        opened = show(url)
    except webbrowser.Error:
        opened = False
    if opened:
        say("The queue opens in your browser.")
        return None
    say("No browser could be opened. This address works once, within a minute:")
    return url


def _ask(port: int, token: str) -> tuple[int, object]:
    headers = {"Authorization": f"Bearer {token}"}
    try:
        with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE_S)) as client:
            client.request("POST", "/dashboard/code", headers=headers)
            answer = client.getresponse()
            body = answer.read(_MAX_ANSWER_BYTES)
    except (OSError, http.client.HTTPException):
        raise StartError(_not_running(port)) from None
    try:
        return answer.status, json.loads(body)
    except (ValueError, RecursionError):
        return answer.status, None


def _not_running(port: int) -> str:
    return (
        f"No server answers on port {port}. Start one in another terminal: inference-mcp serve"
        + (f" --port {port}" if port != 8765 else "")
    )
