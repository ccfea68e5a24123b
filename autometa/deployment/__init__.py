"""From a trained model to named images of classes that it never saw, and how far to trust the names."""
