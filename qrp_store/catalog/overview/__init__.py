"""What the catalog says across kinds: names, listings, run times, transfers."""
