"""Composition and life cycle: the one place that knows everyone."""
