"""`new`: files to start from, which work as they are and overwrite nothing."""

import subprocess
import sys
from pathlib import Path

from tests.cli.conftest import Type


def include(folder: Path) -> None:
    file = folder / "erpsync.toml"
    text = file.read_text().replace(
        "[daemon]\n", '[daemon]\ninclude = ["jobs.d/*.toml", "customers.d/*.toml"]\n', 1
    )
    file.write_text(text.replace("[identities.service]", "[identities.night]"))


def test_a_new_job_works_as_it_is(erpsync: Type, folder: Path) -> None:
    """Plugin, example and test are written; the configuration is fine with them, and the test passes."""
    include(folder)
    said = erpsync("new", "job", "count-rows")
    assert (said.code, len(said.out.splitlines())) == (0, 3), said
    assert erpsync("check").code == 0
    assert "count-rows" in [job["name"] for job in erpsync("jobs", "--format", "json").json]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", ".", "tests"]
    (folder / "pytest.ini").write_text("[pytest]\npythonpath = .\n")
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_new_instance_is_one_small_file(erpsync: Type, folder: Path) -> None:
    """The file is read by the configuration, or it is said what is missing for that."""
    said = erpsync("new", "instance", "acme", "--url", "https://acme.my.erp.net/")
    assert (said.code, "include" in said.err) == (0, True), said
    include(folder)
    assert erpsync("check").code == 0
    assert 'url  = "https://acme.my.erp.net"' in (folder / "customers.d" / "acme.toml").read_text()


def test_nothing_is_overwritten(erpsync: Type, folder: Path) -> None:
    """Where one of the files exists none is written, and a name that cannot be used is refused."""
    (folder / "plugins" / "mine.py").write_text("kept")
    said = erpsync("new", "job", "mine")
    assert (said.code, "exists already" in said.err) == (2, True)
    assert (folder / "plugins" / "mine.py").read_text() == "kept"
    assert not (folder / "jobs.d").exists()
    assert erpsync("new", "instance", "box", "--url", "https://box.my.erp.net").code == 2
    assert erpsync("new", "job", "../evil").code == 2
    assert erpsync("new", "instance", "acme", "--url", 'https://a"b').code == 2
