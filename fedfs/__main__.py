"""``python -m fedfs`` is ``fedfs``."""

from fedfs.cli import main

if __name__ == "__main__":
    main()
