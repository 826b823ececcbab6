"""Makes demo.svg: `erpsync demo` in a real pseudo terminal, ended with Ctrl-C, drawn by rich."""

import fcntl
import os
import pty
import re
import struct
import sys
import tempfile
import termios
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS, ROWS = 150, 60
STAYS = b"Ctrl-C"
FONT_FACE = re.compile(r"@font-face \{.*?\}\s*", re.DOTALL)


def record() -> str:
    """What the terminal receives until the demo waits for Ctrl-C, and until its end."""
    pid, terminal = pty.fork()
    if pid == 0:
        os.environ.update(TERM="xterm-256color", COLUMNS=str(COLUMNS), LINES=str(ROWS))
        os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        os.execvp("erpsync", ["erpsync", "demo"])  # noqa: S606, S607 - ourselves
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    seen, asked = b"", False
    while True:
        try:
            seen += os.read(terminal, 65536)
        except OSError:  # the other end is closed
            os.waitpid(pid, 0)
            return seen.decode()
        if STAYS in seen and not asked:
            asked = True
            os.write(terminal, b"\x03")


def settled(text: str) -> str:
    """The lines as they stand at last: progress that was overwritten is gone, paths are everybody's."""
    lines = [line.rpartition("\r")[2] for line in text.replace("\r\n", "\n").split("\n")]
    folder = re.escape(tempfile.gettempdir())
    return re.sub(rf"{folder}/erpsync-demo-\w+", "/tmp/erpsync-demo", "\n".join(lines))  # noqa: S108 - a picture


def draw(text: str, path: Path) -> None:
    """One picture, without fonts from elsewhere."""
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        console = Console(record=True, width=COLUMNS, file=nowhere, force_terminal=True)
        console.print(Text.from_ansi(text.strip()))
    path.write_text(FONT_FACE.sub("", console.export_svg(title="$ make demo")))


if __name__ == "__main__":
    draw(settled(record()), Path(__file__).with_name("demo.svg"))
