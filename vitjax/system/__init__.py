"""What touches the machine: files, caches, terminals, other processes."""
