"""`qrp-store`: builds the app."""

def main() -> None:
    pass
