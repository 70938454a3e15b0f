"""What a host sees: arguments, results, progress, resources."""
