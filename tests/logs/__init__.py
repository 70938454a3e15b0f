"""Tests of the log's destinations and its writers."""
