"""The commands: parse, call, show. Each does what a method of `Workspace` does."""
