"""Where a daemon keeps things and finds secrets, as its configuration says."""

import os

from erpsync.config.configuration import Configuration
from erpsync.config.secrets import SecretResolver
from erpsync.core.redaction import Redactor
from erpsync.store.run_log import RunLog


def run_log_of(configuration: Configuration) -> RunLog:
    """What the runs say."""
    return RunLog(configuration.daemon.data / "logs", configuration.daemon.retention.log_size)


def resolver_of(configuration: Configuration, redactor: Redactor) -> SecretResolver:
    """Where the secrets of this configuration are looked up; what it finds the redactor knows."""
    return SecretResolver(configuration.secrets, configuration.path.resolve().parent, os.environ, redactor)
