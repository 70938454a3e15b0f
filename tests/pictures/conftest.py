"""A root to read from, a folder outside it, a store with a clock that stands still."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from inference_mcp.pictures.sources import PictureSources
from inference_mcp.pictures.store import PictureFacts, PictureStore
from inference_mcp.requests import RequestType

NOW = datetime(2026, 11, 3, 14, 15, 16, 123456, tzinfo=UTC)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An input root."""
    folder = tmp_path.resolve() / "root"
    folder.mkdir()
    return folder


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A folder that is no input root."""
    folder = tmp_path / "outside"
    folder.mkdir()
    return folder


@pytest.fixture
def store(tmp_path: Path) -> PictureStore:
    """A store whose folder does not exist yet."""
    return PictureStore(tmp_path / "deep" / "output", clock=lambda: NOW)


@pytest.fixture
def sources(root: Path, store: PictureStore) -> PictureSources:
    """Sources that read from ``root``, and from one that does not exist."""
    return PictureSources(roots=[root / "missing", root], store=store)


@pytest.fixture
def facts() -> PictureFacts:
    """Facts of a picture of 32 by 24 pixels."""
    return PictureFacts(
        kind=RequestType.TXT2IMG,
        model="flux-dev",
        prompt="a red field",
        negative_prompt="no sheep",
        seed=7,
        steps=20,
        width_px=32,
        height_px=24,
    )
