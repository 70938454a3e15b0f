"""A loopback proxy before ``serve`` that adds the token, for clients that cannot send one.

It changes nothing else, and streams as it is streamed to: what such a client finds out about the
server is true of the server.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial

import anyio
import httpx
import uvicorn
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

__all__ = ["bearing"]

_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding"}


def _app(url: str, headers: Mapping[str, str], client: httpx.AsyncClient) -> ASGIApp:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        kept = {name: value for name, value in request.headers.items() if name not in _HOP_BY_HOP}
        wanted = client.build_request(
            request.method,
            url + request.url.path,
            headers=kept | dict(headers),
            content=await request.body(),
        )
        answer = await client.send(wanted, stream=True)
        told = {name: each for name, each in answer.headers.items() if name not in _HOP_BY_HOP}
        ending = BackgroundTask(answer.aclose)
        body = StreamingResponse(answer.aiter_raw(), answer.status_code, told, background=ending)
        await body(scope, receive, send)

    return app


@asynccontextmanager
async def bearing(url: str, headers: Mapping[str, str]) -> AsyncIterator[str]:
    """Serve on 127.0.0.1 what ``url`` serves; gives the base URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with httpx.AsyncClient(timeout=60, trust_env=False) as client:
            config = uvicorn.Config(
                _app(url, headers, client),
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=1,
            )
            server = uvicorn.Server(config)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(partial(server.serve, sockets=[listener]))
                try:
                    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
                finally:
                    server.should_exit = True
