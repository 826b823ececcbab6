"""Where a daemon keeps things and finds secrets, as its configuration says."""

import os
from pathlib import Path

from erpsync.config.configuration import Configuration
from erpsync.config.secrets import SecretResolver
from erpsync.core.redaction import Redactor


def run_log_folder(configuration: Configuration) -> Path:
    """One file a run, see store/run_log.py."""
    return configuration.daemon.data / "logs"


def resolver_of(configuration: Configuration, redactor: Redactor) -> SecretResolver:
    """Where the secrets of this configuration are looked up; what it finds the redactor knows."""
    return SecretResolver(configuration.secrets, configuration.path.resolve().parent, os.environ, redactor)
