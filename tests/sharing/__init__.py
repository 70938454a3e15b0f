"""Tests of how the processes of one user share a queue."""
