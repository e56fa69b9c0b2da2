"""Runs `python -m trainer COMMAND`."""

from trainer.main import console

if __name__ == "__main__":
    console()
