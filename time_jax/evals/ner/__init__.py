"""Named entities in IOB or parquet files, scored by seqeval."""
