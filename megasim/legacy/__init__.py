"""Results of mega_cmp, in and out."""
