"""The state database: one writer thread, the run ledger, the owner's lock, run logs."""
