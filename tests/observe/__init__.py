"""Event records and the figures that follow from them."""
