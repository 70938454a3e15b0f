"""The shape of the package: who may import whom, and what no module may do."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

import pytest

import inference_mcp

ROOT = Path(inference_mcp.__file__).parent
TESTS = Path(__file__).parent

CONTRACTS = {"errors", "requests", "backend"}
"""Records and Protocols that name what all rooms share."""

ROOMS: Mapping[str, set[str]] = {
    "base64s": set(),
    "errors": set(),
    "requests": set(),
    "backend": {"requests"},
    "settings": {"errors", "requests"},
    "observe": {"requests"},
    "schemas": {"errors"},
    "logs": {"errors", "observe"},
    "telemetry": {"errors", "logs", "observe"},
    "scheduling": {"errors", "requests"},
    "sharing": {"errors", "requests", "scheduling"},
    "pictures": {"base64s", "errors", "requests"},
    "localai": {"base64s", *CONTRACTS},
    "job": {*CONTRACTS, "pictures", "scheduling"},
    "jobs": {*CONTRACTS, "job", "observe", "pictures", "scheduling", "schemas"},
    "view": {"job", "jobs", "observe", "pictures"},
    "surface": {*CONTRACTS, "base64s", "job", "jobs", "observe", "pictures"}
    | {"scheduling", "schemas", "view"},
    "server": {*CONTRACTS, "jobs", "localai", "logs", "observe", "pictures", "scheduling"}
    | {"settings", "sharing", "simulator", "surface", "telemetry"},
    "web": {"errors", "logs", "pictures", "server", "settings", "telemetry", "view"},
    "simulator": set(),
    "chart": {"requests"},
    "burst": {"chart", "requests", "simulator"},
    "demo": {"burst", "chart", "requests", "settings", "simulator"},
    "doctor": {*CONTRACTS, "localai", "pictures", "settings", "sharing"},
    "hosts": {"errors"},
    "cli": {"demo", "doctor", "errors", "hosts", "logs", "server", "settings", "web"},
    "__main__": {"cli"},
}
"""What each room may import, from the bottom up; the package's own version is free to all."""

HELD: Mapping[str, tuple[str, ...]] = {
    "asyncio": (),
    "trio": (),
    "httpx": ("localai.transport",),
    "structlog": ("logs",),
    "opentelemetry": ("telemetry",),
    "prometheus_client": ("telemetry.scraping",),
    "jsonschema": ("schemas",),
    "ddsketch": ("observe.figures",),
    "starlette": ("simulator", "web"),
    "uvicorn": ("simulator.running", "web.connections", "web.listener"),
    "mcp": ("surface", "server", "web.serving", "demo"),
    "mcp_types": ("surface", "server", "web.crowding", "demo"),
    "filelock": ("sharing.place", "logs.files"),
    "platformdirs": ("settings", "sharing.place", "web.tokens"),
    "pydantic_settings": ("settings",),
}
"""Libraries that only some modules may import."""

TESTED_BY: Mapping[str, str] = {
    "__main__": "test_cli.py",
    "backend": "localai/test_client.py",
    "doctor.examining": "test_doctor.py",
    "observe.events": "observe/test_metrics.py",
    "localai.streams": "localai/test_client_faults.py",
    "logs.crashes": "test_logs.py",
    "logs.events": "test_logs.py",
    "logs.lines": "test_logs.py",
    "server.assembly": "test_server_stdio.py",
    "server.calls": "test_server_log.py",
    "server.protocol": "test_server_stdio.py",
    "server.serving": "test_server_ends.py",
    "scheduling.core": "scheduling/test_rules_order.py",
    "scheduling.decisions": "scheduling/test_rules_turns.py",
    "scheduling.giving_way": "scheduling/test_rules_preemption.py",
    "scheduling.intake": "scheduling/test_rules_limits.py",
    "scheduling.ledger": "scheduling/test_rules_limits.py",
    "scheduling.memory": "scheduling/test_rules_loading.py",
    "scheduling.protocols": "scheduling/test_scheduler.py",
    "scheduling.residency": "scheduling/test_rules_residency.py",
    "scheduling.state": "scheduling/test_rules_order.py",
    "scheduling.world": "scheduling/test_rules_order.py",
    "scheduling.verdicts": "scheduling/test_rules_time.py",
    "sharing.ends": "sharing/test_shared.py",
    "sharing.loads": "sharing/test_desk.py",
    "sharing.request": "sharing/test_member.py",
    "sharing.seat": "sharing/test_desk.py",
    "simulator.__main__": "simulator/test_main.py",
    "simulator.models": "simulator/test_world.py",
    "surface.listing": "surface/test_tools.py",
    "telemetry.exporting": "test_telemetry.py",
    "telemetry.observer": "test_telemetry.py",
    "telemetry.recorder": "test_telemetry.py",
    "telemetry.scraping": "test_telemetry.py",
}
"""Modules whose tests do not bear their name: Protocols, processes, and what rules prove."""

MUTATING = {"add", "append", "clear", "discard", "extend", "insert", "pop", "popitem", "remove"}
MUTATING |= {"setdefault", "update", "appendleft", "popleft", "set", "acquire"}
LIVING = {"AsyncClient", "Client", "Condition", "ContextVar", "Counter", "Event", "Lock"}
LIVING |= {"OrderedDict", "Semaphore", "defaultdict", "deque", "getLogger", "get_logger", "count"}


@cache
def modules() -> list[str]:
    """All modules by their name below the package; a room's ``__init__`` is the room."""
    names = (path.relative_to(ROOT).with_suffix("").parts for path in ROOT.rglob("*.py"))
    found = (".".join(part for part in parts if part != "__init__") for parts in names)
    return sorted(name for name in found if name)


@cache
def tree(module: str) -> ast.Module:
    """A module's source, parsed."""
    path = ROOT.joinpath(*module.split("."))
    file = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return ast.parse(file.read_text(encoding="utf-8"))


def imports(node: ast.AST) -> Iterator[str]:
    """The full names of the modules that are imported anywhere below a node."""
    for each in ast.walk(node):
        if isinstance(each, ast.Import):
            yield from (alias.name for alias in each.names)
        elif isinstance(each, ast.ImportFrom):
            assert each.level == 0, "imports are absolute"
            module = each.module or ""
            inside = [f"{module}.{alias.name}" for alias in each.names]
            own = [name for name in inside if name.removeprefix("inference_mcp.") in modules()]
            yield from own or [module]


def own_imports(node: ast.AST) -> set[str]:
    """The package's own modules among them, by their name below it."""
    found = (name.removeprefix("inference_mcp.") for name in imports(node))
    return {name for name in found if name in modules()}


@pytest.mark.parametrize("module", modules())
def test_imports_go_down_only(module: str) -> None:
    """Each room knows what is below it, and nothing of what is above or beside."""
    room = module.split(".")[0]
    used = {name.split(".")[0] for name in own_imports(tree(module))} - {room}
    assert used <= ROOMS[room], f"{module} must not import {sorted(used - ROOMS[room])}"


@pytest.mark.parametrize("library", HELD)
def test_libraries_stay_where_they_belong(library: str) -> None:
    """One HTTP client, one log, one protocol surface; ``anyio`` and never ``asyncio``."""
    homes = HELD[library]
    for module in modules():
        if any(module == home or module.startswith(f"{home}.") for home in homes):
            continue
        used = {name.split(".")[0] for name in imports(tree(module))}
        assert library not in used, f"{module} imports {library}"


def test_the_serving_path_knows_no_simulator_until_it_is_asked_for() -> None:
    """``server`` imports it inside a function: who has a LocalAI never loads it."""
    serving = [module for module in modules() if module.split(".")[0] == "server"]
    body = [node for module in serving for node in tree(module).body]
    at_once = {
        name
        for node in body
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in own_imports(node)
    }
    assert not any(name.startswith("simulator") for name in at_once)


def test_no_module_imports_itself_by_way_of_others() -> None:
    """What is imported when a module is: a graph without a cycle."""
    graph = {
        module: {
            name
            for node in tree(module).body
            if isinstance(node, ast.Import | ast.ImportFrom)
            for name in own_imports(node)
        }
        for module in modules()
    }
    while free := {module for module, needed in graph.items() if not needed & set(graph)}:
        graph = {module: needed for module, needed in graph.items() if module not in free}
    assert not graph, f"a cycle among {sorted(graph)}"


@pytest.mark.parametrize("module", modules())
def test_each_module_opens_with_its_contract(module: str) -> None:
    """What it is, and what it does not know."""
    assert ast.get_docstring(tree(module)), f"{module} has no docstring"


@pytest.mark.parametrize("module", modules())
def test_modules_hold_no_state(module: str) -> None:
    """Nothing global is changed, and nothing that lives is made on import."""
    body = tree(module)
    names = {
        target.id
        for node in body.body
        for target in _targets(node)
        if isinstance(target, ast.Name) and target.id != "__all__"
    }
    for node in ast.walk(body):
        assert not isinstance(node, ast.Global), f"{module}:{node.lineno} changes a global"
        changed = _changed(node)
        assert changed not in names, f"{module} changes its {changed}"
    for node in body.body:
        if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Call):
            called = node.value.func
            name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
            assert name not in LIVING, f"{module}:{node.lineno} makes a {name} on import"


def _targets(node: ast.stmt) -> list[ast.expr]:
    if isinstance(node, ast.Assign):
        return node.targets
    return [node.target] if isinstance(node, ast.AnnAssign) else []


def _changed(node: ast.AST) -> str | None:
    """The name whose value a node changes in place, if it does."""
    if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Store | ast.Del):
        return getattr(node.value, "id", None)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
        return getattr(node.func.value, "id", None) if node.func.attr in MUTATING else None
    return None


@pytest.mark.parametrize("module", [each for each in modules() if not (ROOT / each).is_dir()])
def test_each_module_has_its_tests(module: str) -> None:
    """A file of its name, or one that is named above."""
    folder, _, name = module.rpartition(".")
    usual = [f"{folder}/test_{name}.py", f"test_{folder}_{name}.py"]
    named = [TESTED_BY[module]] if module in TESTED_BY else usual if folder else [f"test_{name}.py"]
    assert any((TESTS / each).is_file() for each in named), f"{module} has no {named[0]}"


def test_no_name_above_is_out_of_date() -> None:
    """A room, a module or an import that is gone goes here too."""
    used: dict[str, set[str]] = {room: set() for room in ROOMS}
    for module in modules():
        names = {name.split(".")[0] for name in own_imports(tree(module))}
        used[module.split(".")[0]] |= names - {module.split(".")[0]}
    used["server"] |= {"localai", "sharing"}  # imported by name, in a thread
    assert used == ROOMS
    known = {module.split(".")[0] for module in modules()}
    assert known <= set(ROOMS)
    assert set(TESTED_BY) <= set(modules())


@pytest.mark.parametrize("module", modules())
def test_modules_and_functions_stay_short(module: str) -> None:
    """About 400 lines, about 40 lines: what one reads in one sitting."""
    body = tree(module)
    assert (body.body[-1].end_lineno or 0) <= 450, f"{module} is too long"
    for node in ast.walk(body):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno
            assert lines <= 55, f"{module}.{node.name} is {lines} lines long"


def test_the_drawing_for_newcomers_is_true() -> None:
    """CONTRIBUTING draws the rooms by their imports, those left out that another one implies."""

    def below(room: str) -> set[str]:
        return ROOMS[room].union(*map(below, ROOMS[room]))

    drawn = {
        (room, needed)
        for room in ROOMS
        for needed in ROOMS[room]
        if not any(needed in below(other) for other in ROOMS[room])
    }
    text = (TESTS.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
    found = re.findall(r"^    (\w+) --> (.+)$", text, re.MULTILINE)
    assert {(room, each) for room, needed in found for each in needed.split(" & ")} == drawn


def test_each_rule_of_the_queue_is_listed_and_tested() -> None:
    """S1 to S23: in the contract of ``scheduling``, and named by a test."""
    contract = ast.get_docstring(tree("scheduling")) or ""
    rules = {f"S{number}" for number in range(1, 24)} - {"S21"}  # that is in "S21 to S23"
    assert all(re.search(rf"\b{rule}\b", contract) for rule in rules)
    told = {
        rule
        for file in TESTS.rglob("test_*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for rule in re.findall(r"\bS\d+\b", ast.get_docstring(node) or "")
    }
    assert rules | {"S21"} <= told, sorted((rules | {"S21"}) - told)


def test_each_trap_of_localai_is_listed_and_tested() -> None:
    """Numbers 1 to 22: in the contract of ``localai``, and as ``test_trap_NN_…`` in its tests."""
    contract = ast.get_docstring(tree("localai")) or ""
    listed = [int(number) for number in re.findall(r"^ {4}(\d+) {2,}\S", contract, re.MULTILINE)]
    assert listed == list(range(1, 23))
    names = (
        node.name
        for file in (TESTS / "localai").glob("test_traps*.py")
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    tested = {int(found[1]) for name in names if (found := re.match(r"test_trap_(\d\d)_", name))}
    assert tested == set(listed)
