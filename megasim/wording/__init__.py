"""How sentences, tables and pictures are worded: in a terminal, in a file, in a notebook."""
