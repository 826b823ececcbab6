"""The kit for plugin authors: a sandbox, run_job, fault scripts."""
