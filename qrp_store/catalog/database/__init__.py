"""How a database is reached: connections, queries, bulk rows, its clock and its schema."""
