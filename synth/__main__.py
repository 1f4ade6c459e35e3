"""`python -m synth` is the command `distill`."""

from synth.cli import main

if __name__ == "__main__":
    main()
