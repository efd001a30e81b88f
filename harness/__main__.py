"""`python -m harness`: the same as `forgeteval`."""

from harness.cli import main

main()
