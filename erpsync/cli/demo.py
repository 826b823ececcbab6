"""`demo`: placeholder"""


def demo() -> None: ...
