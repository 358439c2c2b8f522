"""Pictures and the report page; knows plain data (numbers, text, uint8 pictures), no model and no dataset."""
