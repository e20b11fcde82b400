"""A file or folder → tensors, one at a time; nothing in it is executed, and nothing trusted."""
