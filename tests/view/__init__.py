"""Tests of the queue's page and its facts; those in a browser stand in ``test_browser``."""
