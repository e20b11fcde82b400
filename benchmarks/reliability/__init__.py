"""The long run: kills, full disks, mutated files, changing files and many processes."""
