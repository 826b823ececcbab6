"""Calls an HTTP address on a schedule."""
