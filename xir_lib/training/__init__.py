"""One training run, from settings to an ordinary SentenceTransformer folder. Knows no study."""
