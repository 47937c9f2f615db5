"""`python -m bide`: the command line."""

from bide._cli import main

main()
