"""What costs no training: maps on finished vectors, and merging of rankings. Knows no data set."""
