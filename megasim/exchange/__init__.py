"""Results of mega_cmp, model maps and fingerprint files, in and out."""
