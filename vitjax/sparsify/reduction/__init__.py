"""Published methods of token reduction as pure functions of a whole sequence, one file each."""
