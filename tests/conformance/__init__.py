"""The official conformance suite against ``serve``, and what it is expected to find."""
