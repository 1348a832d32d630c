"""`python -m fasim`."""

from fasim.cli import main

main()
