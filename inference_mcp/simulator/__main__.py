"""``python -m inference_mcp.simulator``: the stand-in as a process of its own.

Its first line on stdout is the base URL. It ends on SIGTERM, on Ctrl-C, and with
``--until-stdin-closes`` when whoever started it goes.
"""

from __future__ import annotations

import argparse
import signal
import sys

import anyio
import anyio.to_thread

from inference_mcp.simulator.running import running
from inference_mcp.simulator.world import World, default_world


def _main() -> int:
    options = _parse()
    world = default_world(
        options.speed,
        directives=not options.no_directives,
        distributed=options.distributed,
    )
    world.max_active_backends = options.max_active_backends
    world.api_keys = frozenset(options.api_key)
    world.user_keys = frozenset(options.user_key)
    # Stopped by a signal or by Ctrl-C: asked to end, so all is well. A shell that starts it in the
    # background has Ctrl-C ignored, which a child inherits.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        anyio.run(_serve, world, options.port, options.until_stdin_closes)
    except KeyboardInterrupt:
        return 0
    return 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m inference_mcp.simulator", description="A LocalAI stand-in."
    )
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--speed", type=float, default=1.0, help="2 is twice as fast")
    parser.add_argument("--max-active-backends", type=int, default=0, help="0 for no limit")
    parser.add_argument("--api-key", action="append", default=[], help="may be repeated")
    parser.add_argument("--user-key", action="append", default=[], help="a plain user's; the same")
    parser.add_argument("--distributed", action="store_true", help="two workers, detached loads")
    parser.add_argument("--no-directives", action="store_true", help="prompts are only prompts")
    parser.add_argument("--until-stdin-closes", action="store_true")
    return parser.parse_args()


async def _serve(world: World, port: int, until_stdin_closes: bool) -> None:
    async with running(world, port=port) as url:
        sys.stdout.write(f"{url}\n")
        sys.stdout.flush()
        if until_stdin_closes:
            await anyio.to_thread.run_sync(sys.stdin.buffer.read, abandon_on_cancel=True)
        else:
            await anyio.sleep_forever()


if __name__ == "__main__":
    sys.exit(_main())
