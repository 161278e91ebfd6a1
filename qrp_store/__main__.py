"""`python -m qrp_store`: the command line."""

from qrp_store.cli.main import main

if __name__ == "__main__":
    main()
