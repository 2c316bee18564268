"""``python -m dosafe``: the same as the command ``dosafe``."""

from dosafe.cli.main import main

if __name__ == "__main__":
    main()
