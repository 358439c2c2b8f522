"""`python -m vitjax` is the `vitjax` command."""

from vitjax.cli.main import entry

if __name__ == "__main__":
    entry()
