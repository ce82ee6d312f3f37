"""``python -m torch2edge`` is the command ``torch2edge``."""

from .cli import entry

if __name__ == "__main__":
    entry()
