"""The SQL side of a store: what there is, who is making it, and what it said."""
