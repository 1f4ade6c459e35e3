"""`python -m synth` is the command `distill`."""

from synth.cli.app import main

if __name__ == "__main__":
    main()
