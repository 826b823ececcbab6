"""Log lines, metrics and health, fed by events."""
