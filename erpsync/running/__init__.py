"""Takes pending runs: attempts, time-outs, retry, child processes, recovery."""
