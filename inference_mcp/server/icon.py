"""The server's icon: three bars that wait in line, the first of them lit.

A PNG, for hosts need not show SVGs, which may hold scripts; in a ``data:`` URI, for nothing is to
be fetched from anywhere. It is small because the newest protocol sends it with every answer. For
the same reason tools, prompts and resources have none of their own: eleven of them would not fit
the budget of ``tools/list``, and a host shows the server's beside each.
"""

from __future__ import annotations

from mcp_types import Icon

__all__ = ["ICONS"]

_PNG = (
    "iVBORw0KGgoAAAANSUhEUgAAADAAAAAwAgMAAAAqbBEUAAAADFBMVEUAAAAmRlP////pxGptqu9tAAAAAXRSTlMA"
    "QObYZgAAAIBJREFUeNqtjrsNg0AQRN/uXQEEQOyYKogdg0Q5FERM7H4goADkc2BznwDJoJvojWZ3NIJ0fLW8lPLH"
    "lBh5HkZqtXgVSiQtAts0aQNLmsTGQjMC8B44P7tjpL/+Y6FqATflWJBpjpvyLPhzjlkenl1asAXe02QPvBl8g5uV"
    "9QhWPhc0FNIkKBtVAAAAAElFTkSuQmCC"
)

ICONS = (Icon(src=f"data:image/png;base64,{_PNG}", mime_type="image/png", sizes=["48x48"]),)
