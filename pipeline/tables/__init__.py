"""Tables that other programs wrote, read in blocks of rows; every row is read or rejected."""
