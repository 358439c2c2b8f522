"""Which patch matched which, and how far that can be trusted."""
