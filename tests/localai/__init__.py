"""Tests of the LocalAI client, on real sockets."""
