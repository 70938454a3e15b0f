"""The tests; each folder and file mirrors a room of the package."""
