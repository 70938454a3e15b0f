"""Measurements that people run by hand: each a documented command that prints a table."""
