"""What a model knows: retrieval and zero-shot classification."""
