"""Tests of the parts of ``server`` that need no whole process."""
