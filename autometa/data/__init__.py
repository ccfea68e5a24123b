"""Data: what data sets there are, decoding them once into a memory-mapped cache, and drawing episodes."""
