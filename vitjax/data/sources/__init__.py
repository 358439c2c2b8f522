"""Where images and labels come from: one file per kind of dataset."""
