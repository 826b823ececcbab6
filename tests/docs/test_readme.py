"""The README is true: its files are checked, its plugin runs, its commands exist."""

import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
BLOCK = re.compile(r"<!-- file: (\S+) -->\n```\w+\n(.*?)```", re.DOTALL)
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "ARCHITECTURE.md",
    ROOT / "CHANGELOG.md",
    *(ROOT / "docs").rglob("*.md"),
]


def section(title: str) -> dict[str, str]:
    """The files of one section, by name."""
    text = README.split(f"\n## {title}\n")[1].split("\n## ")[0]
    return dict(BLOCK.findall(text))


def erpsync(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "erpsync.cli.main", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60, check=False)


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_the_configurations_pass_the_check(tmp_path: Path) -> None:
    """What the README shows is accepted without errors or warnings."""
    titles = (
        "A first job",
        "A person's identity",
        "Forty customers, one definition",
        "Every night, once, and never in office hours",
    )
    for title in titles:
        folder = tmp_path / title.replace(" ", "-")
        write(folder, section(title))
        done = erpsync(folder, "check", "--no-secrets")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "warning[" not in done.stdout + done.stderr


def test_one_definition_is_a_job_for_each_customer(tmp_path: Path) -> None:
    """Forty small files make forty jobs, each with its own differences."""
    files = section("Forty customers, one definition")
    customer = files.pop("customers.d/acme.toml")
    for number in range(40):
        name = f"c{number}"
        files[f"customers.d/{name}.toml"] = customer.replace("acme", name)
    write(tmp_path, files)
    done = erpsync(tmp_path, "jobs")
    assert done.returncode == 0, done.stderr
    assert all(f"products@c{number}" in done.stdout for number in range(40))
    shown = erpsync(tmp_path, "jobs", "show", "products@c7")
    assert re.search(r"page_size\W+500\W.*customers\.d/c7\.toml:6", shown.stdout), shown.stdout


def test_the_plugin_runs_as_shown(tmp_path: Path) -> None:
    """The ten-line plugins and their test pass as they stand in the README."""
    files = section("A plugin of your own")
    test = files["test_count_rows.py"]
    files["test_apart.py"] = test.replace("count_rows", "count_apart").replace(
        "count_apart.py", "count_rows.py"
    )
    assert len(files["plugins/count_rows.py"].splitlines()) <= 11
    write(tmp_path, {**files, "pytest.ini": "[pytest]\npythonpath = .\n"})
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "test_count_rows.py",
        "test_apart.py",
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_command_exists(tmp_path: Path) -> None:
    """Each `erpsync COMMAND` that a document names is a command."""
    listed = erpsync(tmp_path, "--help").stdout
    for document in DOCUMENTS:
        for command in re.findall(r"(?:^\$ |`)erpsync ([a-z]+)\b", document.read_text(), re.MULTILINE):
            assert re.search(rf"^\W*{command}\b", listed, re.MULTILINE), f"{document.name}: {command}"


def test_every_link_leads_somewhere() -> None:
    """Relative links in the documents name files of the repository."""
    for document in DOCUMENTS:
        for target in re.findall(r"\]\(([^)#:]+)\)", document.read_text()):
            assert (document.parent / target).exists(), f"{document.name}: {target}"


def test_every_problem_is_documented() -> None:
    """Each code that the program can show has a row in the table, and no row is without a code."""
    listed = re.findall(
        r"^\| `([EW]\d+)`", (ROOT / "docs/configuration-problems.md").read_text(), re.MULTILINE
    )
    sources = [path.read_text() for path in (ROOT / "erpsync").rglob("*.py")]
    assert set(listed) == {code for text in sources for code in re.findall(r'"([EW]\d{3})"', text)}
    assert len(listed) == len(set(listed))
