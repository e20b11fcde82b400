"""The store: connection, statements, rows, and matrices out of it."""
