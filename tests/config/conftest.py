"""A folder to write configurations into."""

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from erpsync.config.configuration import Configuration
from erpsync.config.load import load_configuration
from erpsync.core.errors import ConfigError
from erpsync.core.problem import Problem

ACME = '[instances.acme]\nurl = "https://acme.my.erp.net"\ntags = ["live"]\n'
BETA = '[instances.beta]\nurl = "https://beta.my.erp.net"\ntags = ["live", "big"]\n'
NIGHT = '[identities.night]\nclient_id = "x"\nclient_secret = { secret = "${instance}.${identity}" }\n'

Load = Callable[..., Configuration]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """Writes erpsync.toml, and other files by keyword, then loads; `environ` is the whole environment."""

    def loaded(
        text: str, files: Mapping[str, str] | None = None, environ: Mapping[str, str] | None = None
    ) -> Configuration:
        for name, content in {"erpsync.toml": text, **(files or {})}.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(content)
        return load_configuration(tmp_path / "erpsync.toml", {"HOME": str(tmp_path), **(environ or {})})

    return loaded


@pytest.fixture
def problems(load: Load) -> Callable[..., list[Problem]]:
    """The problems of a configuration that must not load."""

    def found(*arguments: object) -> list[Problem]:
        with pytest.raises(ConfigError) as caught:
            load(*arguments)
        return list(caught.value.problems)

    return found
