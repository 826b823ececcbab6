"""Configuration: TOML with key positions, problems, fan-out over instances, secret references."""
