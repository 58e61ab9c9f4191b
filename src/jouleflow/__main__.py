"""`python -m jouleflow` is the command line."""

from jouleflow.cli import main

if __name__ == "__main__":
    main()
