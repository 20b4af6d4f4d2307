"""One cell of a comparison from its specification to trained weights."""
