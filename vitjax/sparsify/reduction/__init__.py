"""Methods of token reduction, one file each: classes for blocks, published steps of a whole sequence."""
