"""Images and the report page; knows plain data (numbers, text, uint8 images), no model and no dataset."""
