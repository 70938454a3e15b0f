"""What LocalAI's base address says. Pure text; above it is ``transport``."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit

__all__ = ["is_loopback", "plain_url"]


def plain_url(base_url: str) -> str:
    """Scheme, host, port and path alone, without ``/v1`` or a ``/`` at the end.

    Credentials in a URL would make httpx replace the bearer header by Basic, and would show
    in errors.
    """
    parts = urlsplit(base_url.strip())
    path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{path}"


def is_loopback(host: str) -> bool:
    """Whether this host is this machine, as far as its name tells."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
