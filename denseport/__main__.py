"""`python -m denseport`: the command line."""

from denseport.cli import main

if __name__ == "__main__":
    main()
