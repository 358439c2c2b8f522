"""One file is one experiment; `get_config(arg)` returns it."""
