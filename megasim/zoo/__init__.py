"""Small models of known history, for `megasim demo`, the tests and the benchmarks."""
