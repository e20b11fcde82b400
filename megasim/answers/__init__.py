"""What a store answers, as values that show themselves: matrices, findings, maps, tables."""
