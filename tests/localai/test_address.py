"""What LocalAI's base address says."""

from __future__ import annotations

import pytest

from inference_mcp.localai.address import is_loopback, plain_url


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("http://localhost:8080", "http://localhost:8080"),
        ("http://localhost:8080/", "http://localhost:8080"),
        ("http://localhost:8080/v1", "http://localhost:8080"),
        (" http://localhost:8080/v1/ ", "http://localhost:8080"),
        ("http://host/under/v1", "http://host/under"),
        ("http://host/v10", "http://host/v10"),
        ("http://user:p@ss@host:1/?key=x#y", "http://host:1"),
        ("https://[::1]:8080/", "https://[::1]:8080"),
    ],
)
def test_the_address_is_reduced_to_what_counts(given: str, expected: str) -> None:
    """No credentials, query or end."""
    assert plain_url(given) == expected


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("localhost", True),
        ("ai.localhost", True),
        ("127.0.0.1", True),
        ("127.1.2.3", True),
        ("::1", True),
        ("192.168.1.2", False),
        ("localhost.example.org", False),
        ("", False),
    ],
)
def test_this_machine_is_known_by_name_and_number(host: str, expected: bool) -> None:
    """No proxy stands between this machine and itself."""
    assert is_loopback(host) is expected
