"""Results → one page that opens from disk, and the data behind it."""
