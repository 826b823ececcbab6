"""The public plugin contract, discovery, context and sinks."""
