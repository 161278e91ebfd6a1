"""One module for each kind of thing that the catalog holds."""
