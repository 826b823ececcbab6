"""Copies an entity set into a SQL table."""
