"""The code interpreter's server: `python3 -I DIRECTORY [options]`."""

from interpreter.main import main

main()
