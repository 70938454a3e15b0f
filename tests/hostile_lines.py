"""Lines that a broken or hostile host writes, from a seed: nothing here is a test.

An own generator and not Hypothesis: most of these lines are no values but bytes that no strategy
for values makes, thousands go through one process whose growth is measured, and each is found
again by seed and number. ``tests.benchmarks.hostile_lines`` sends them.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any, Final

__all__ = ["FIRST_CALL", "MARK", "envelope", "hostile_line", "large_lines"]

MARK: Final = "c0ffee-never-told"
"""Stands in most lines: no log may hold it."""

DEEP: Final = b"[" * 100_000 + b"]" * 100_000
LONG_NUMBER: Final = b"9" * 5_000
FIRST_CALL: Final = 10_000
"""The ids of good calls are whole numbers above this."""

MODERN: Final = "2026-07-28"

_TOOLS: Final = (
    *("txt2txt", "txt2img", "img2img", "img2txt", "get_job", "cancel_job", "list_models"),
    *("get_queue_status", "get_request_metrics", "get_error_metrics", "get_health", "no_such"),
)
_METHODS: Final = (
    *("tools/list", "resources/list", "resources/read", "resources/templates/list", "ping"),
    *("completion/complete", "logging/setLevel", "prompts/list", "prompts/get", "initialize"),
    *("server/discover", "tools/call", "resources/subscribe", "sampling/createMessage"),
    *("notifications/initialized", "notifications/progress", "notifications/cancelled"),
    *("notifications/roots/list_changed", "roots/list", "rpc.discover", "", "\0", "m" * 100_000),
)
_NAMES: Final = (
    *("prompt", "messages", "image", "priority", "wait_seconds", "max_tokens", "width", "model"),
    *("response_schema", "stop", "job_id", "type", "limit", "window_seconds", "seed", MARK, ""),
)


def envelope(version: str) -> dict[str, Any]:
    """What each request's ``params`` hold besides its own, in the protocol without a handshake."""
    if version != MODERN:
        return {}
    prefix = "io.modelcontextprotocol/"
    return {
        "_meta": {
            f"{prefix}protocolVersion": version,
            f"{prefix}clientInfo": {"name": "test", "version": "1"},
            f"{prefix}clientCapabilities": {},
        }
    }


def hostile_line(seed: int, number: int, version: str) -> tuple[object, bytes]:
    """One line without its end, and the id that it bears; ``None`` where it bears none."""
    chance = random.Random(f"{seed}/{number}/{version}")  # noqa: S311 - not for secrets
    # Now and then that of a call that may still run; of one length, for a cut must make no other.
    same = max(0, number - chance.randrange(1, 5)) if chance.random() < 0.1 else number
    id_ = f"h{same:08d}" if chance.random() < 0.7 else 10**12 + same
    line = _one(chance, id_, version)
    if chance.random() < 0.15:
        line = _damaged(line, chance)
    # An end inside makes two lines of it, which is as good.
    return id_, line


def large_lines(version: str) -> list[tuple[object, bytes]]:
    """At and beyond the limit, each of 64 MB or more."""
    head, text = b'{"jsonrpc":"2.0","id":"large-%d","method":"tools/call","params":', b"x" * 2**26
    early = head % 1 + b'{"name":"txt2txt","arguments":{"prompt":"' + text + b'"}}}'
    late = b'{"method":"tools/call","params":{"a":"' + text + b'"},"jsonrpc":"2.0","id":"large-2"}'
    meta = json.dumps(envelope(version) | {"name": "txt2txt"}).encode()[:-1]
    fits = head % 3 + meta + b',"arguments":{"prompt":"'
    fits += b"x" * (2**26 - len(fits) - 20) + b'"}}}'
    deep = head % 4 + b"[" * 2**25 + b"]" * 2**25 + b"}"
    broken = b"\xff" * (2**26 + 5)
    return [
        ("large-1", early),
        ("large-2", late),
        ("large-3", fits),
        ("large-4", deep),
        (None, broken),
    ]


# --- making them ------------------------------------------------------------------------------


def _one(chance: random.Random, id_: object, version: str) -> bytes:
    kind = chance.randrange(10)
    if kind == 0:
        return _no_json(chance)
    if kind == 1:
        return _odd_id(chance, version)
    if kind == 2:
        return _raw(_message(id_, "tools/call", {"name": "txt2txt", "arguments": "@"}), chance)
    if kind == 3:
        return _dumped(_notice(chance))
    if kind == 4:
        return _dumped(_unasked(chance, id_))
    if kind == 5:
        return _dumped(_odd_shape(chance, id_))
    if kind in (6, 7):
        return _dumped(_message(id_, "tools/call", _call(chance, version)))
    return _dumped(_message(id_, chance.choice(_METHODS), _params(chance, version)))


def _message(id_: object, method: object, params: object) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": id_, "method": method, "params": params}


def _dumped(value: object) -> bytes:
    return json.dumps(value).encode()


def _no_json(chance: random.Random) -> bytes:
    word = MARK.encode()
    return chance.choice(
        (
            *(
                b"",
                b"  ",
                b"\r",
                b"\xef\xbb\xbf",
                b"\xef\xbb\xbf{}",
                b"\0",
                b"\xff\xfe{\0}\0",
                b"nul",
            ),
            *(word, b"{", b"}", b"[", b'"', b'"' + word, b"{" * 500, b'{"a":' * 500, b"\x1b[2J"),
            *(DEEP, LONG_NUMBER, b"1e999", b"-1e999", b"NaN", b"Infinity", b"null", b"true", b"0"),
            *(b"[]", b"[[]]", b"[{}]", b"{}", b'{"id":' + LONG_NUMBER + b"}", b"Content-Length: 5"),
            *(bytes(chance.randrange(256) for _ in range(60)).replace(b"\n", b""), b"x" * 300_000),
        )
    )


def _odd_id(chance: random.Random, version: str) -> bytes:
    """Ids that are none; and those that are equal to others only in Python."""
    params = json.dumps(envelope(version)).encode()
    odd = chance.choice(
        (
            *(b"null", b"true", b"false", b"1.0", b"1.5", b"-0", b"1e999", b"NaN", b"[]", b"{}"),
            *(b"[1]", b'{"a":1}', LONG_NUMBER, b"-" + LONG_NUMBER, DEEP, b'""', b'"\\u0000"'),
            *(b'"\\ud83d"', b'"' + b"i" * 100_000 + b'"', b'"\xff"', b"9007199254740993", b"1E2"),
        )
    )
    return b'{"jsonrpc":"2.0","id":%s,"method":"tools/list","params":%s}' % (odd, params)


def _raw(message: Mapping[str, Any], chance: random.Random) -> bytes:
    """A whole message but for one value that JSON, or Python, does not take."""
    value = chance.choice(
        (
            *(
                DEEP,
                b"{" * 100 + b"}" * 100,
                LONG_NUMBER,
                b"1e999",
                b"-1E+9999",
                b"NaN",
                b"-Infinity",
            ),
            *(
                b'"\\ud83d"',
                b'"\\udc00\\ud83d"',
                b'{"\\ud83d":1}',
                b'"\xff\xfe"',
                b'"\\u0000"',
                b'"\0"',
            ),
            *(b'{"prompt":"a","prompt":"%s"}' % MARK.encode(), b'{"seed":' + LONG_NUMBER + b"}"),
            *(b'{"prompt":"\xed\xa0\xbd"}', b"undefined", b"'a'", b'{"a":1,}', b"[1,,2]", b"\x1a"),
            *(b'{"temperature":1e400,"prompt":"a"}', b'{"response_schema":' + DEEP[:60_000] + b"}"),
            b'{"a":{"id":1,"method":"x"}},"id":"inner","x":{"id":2}',
        )
    )
    return _dumped(message).replace(b'"@"', value)


def _notice(chance: random.Random) -> dict[str, Any]:
    """Cancels of what is not, reasons that are none, progress of nothing."""
    # Ids of running calls are whole numbers: what is only equal to one must not cancel it.
    running = FIRST_CALL + chance.randrange(1, 200)
    target = chance.choice(
        (
            *(str(running), running + 0.0, True, None, -1, 10**30),
            *([running], {"id": running}, "", "h1"),
        )
    )
    reason = chance.choice(
        (MARK, "", None, 5, [MARK], {"a": MARK}, "timed out", "\ud83d", "r" * 99_000)
    )
    params: object = chance.choice(
        (
            {"requestId": target, "reason": reason},
            {"requestId": target, "reason": reason, "_meta": {"progressToken": MARK}},
            *({}, None, [], {"progressToken": target, "progress": "x"}, {"reason": reason}),
            {"progressToken": target, "progress": 1e308, "total": -1},
        )
    )
    method = chance.choice(("cancelled", "cancelled", "cancelled", "progress", "no", "message"))
    return {"jsonrpc": "2.0", "method": f"notifications/{method}", "params": params}


def _unasked(chance: random.Random, id_: object) -> dict[str, Any]:
    """Answers to questions that nobody asked."""
    id_ = chance.choice((id_, None, 0, 1, "1", True, [], 1.5))
    return chance.choice(
        (
            {"jsonrpc": "2.0", "id": id_, "result": {"a": MARK}},
            {"jsonrpc": "2.0", "id": id_, "result": MARK},
            {"jsonrpc": "2.0", "id": id_, "error": {"code": 1, "message": MARK}},
            {"jsonrpc": "2.0", "id": id_, "error": MARK},
            {"jsonrpc": "2.0", "id": id_, "result": {}, "error": {"code": 1, "message": MARK}},
            {"jsonrpc": "2.0", "id": id_},
        )
    )


def _odd_shape(chance: random.Random, id_: object) -> object:
    whole = _message(id_, "tools/list", {})
    return chance.choice(
        (
            whole | {"jsonrpc": chance.choice(("1.0", 2.0, None, [], "2.0 "))},
            whole | {"method": chance.choice((None, 5, [], {"a": 1}, True))},
            whole | {"params": chance.choice(([], [1], "x", 5, True, MARK))},
            whole | {"result": {}} | {"error": {}},
            whole | {"method": "notifications/cancelled"},
            {"id": id_, "method": "tools/list"},
            [whole, whole],
            [whole] * 1_000,
            [[whole]],
            *(
                {MARK: whole},
                {"id": id_},
                whole | {"extra": MARK},
                whole | {"ID": 1, "Method": "a"},
            ),
        )
    )


def _value(chance: random.Random, depth: int = 2) -> object:
    simple: tuple[object, ...] = (
        *(None, True, False, 0, -1, 1.5, 512.0, 2**31, 2**63, 10**30, -(10**400), 1e308, "", " "),
        *(MARK, "\ud83d", "\0", "a\nb", "|", "é" * 50, "1", "x" * 20_000, [], {}, "\u202e\ufeff"),
        *(
            "../../etc/passwd",
            "file:///etc/passwd",
            "data:image/png;base64,AAAA",
            "data:,",
            "job-1",
        ),
    )
    if depth and chance.random() < 0.3:
        inner = [_value(chance, depth - 1) for _ in range(chance.randrange(4))]
        return (
            inner if chance.random() < 0.5 else {str(key): each for key, each in enumerate(inner)}
        )
    return chance.choice(simple)


def _call(chance: random.Random, version: str) -> dict[str, Any]:
    arguments: object = {chance.choice(_NAMES): _value(chance) for _ in range(chance.randrange(4))}
    if chance.random() < 0.15:
        arguments = _value(chance)
    if isinstance(arguments, dict) and chance.random() < 0.9:
        arguments["wait_seconds"] = 0  # what is right by chance must not take long
    found = _params(chance, version)
    return found | {"name": chance.choice(_TOOLS), "arguments": arguments}


def _params(chance: random.Random, version: str) -> dict[str, Any]:
    """Wrong cursors, tokens, URIs, levels, references, and envelopes of the protocol."""
    meta: dict[str, Any] = dict(envelope(version).get("_meta", {}))
    if chance.random() < 0.4:
        meta["progressToken"] = _value(chance)
    if chance.random() < 0.15:
        key = chance.choice((*meta, MARK))
        meta[key] = _value(chance)
    names = ("cursor", "uri", "level", "ref", "argument", "protocolVersion", "capabilities")
    found = {name: _value(chance) for name in names if chance.random() < 0.2}
    if chance.random() < 0.3:
        name = chance.choice(("images/../x", "images/%00", "models", MARK, "queue?x", "images/"))
        found["uri"] = f"inference://{name}"
    if chance.random() < 0.3:
        found["ref"] = {"type": chance.choice(("ref/prompt", "ref/resource", 5)), "uri": MARK}
        found["argument"] = {
            "name": chance.choice(("id", "model", MARK)),
            "value": _value(chance, 0),
        }
    return found | ({"_meta": meta} if meta else {})


def _damaged(line: bytes, chance: random.Random) -> bytes:
    at = chance.randrange(len(line) + 1)
    piece = chance.choice((b"\xff", b"\0", b"\xed\xa0\x80", b'"', b"\\", b"\r\n", b"\r", b"{", b""))
    return line[:at] + piece + line[at + chance.randrange(3) :]
