"""Triggers, the pure planner and the engine; only writes pending runs."""
