"""`python -m autometa`."""

from autometa.cli import main

main()
