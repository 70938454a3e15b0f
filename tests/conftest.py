"""What all tests share: the event loop of async ones, and how a case of bytes is named."""

from __future__ import annotations

import pytest


@pytest.fixture
def anyio_backend() -> str:
    """Run async tests on asyncio, as the server does; tests of pure waiting override it."""
    return "asyncio"


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name a picture by its parameter: its bytes are unreadable, and another process has others."""
    return argname if isinstance(val, bytes) and len(val) > 40 else None
