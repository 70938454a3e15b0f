"""The scheduler: rules as tables, random walks, an exhaustive search, experiments."""
