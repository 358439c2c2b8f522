"""Building blocks that several backbones share: attention, positions, windows, norms."""
