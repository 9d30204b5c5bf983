"""`python -m manyseg.cli` is the command line."""

from manyseg.cli import main

main()
