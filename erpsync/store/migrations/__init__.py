"""Versions of the state database's schema, applied by Alembic."""
