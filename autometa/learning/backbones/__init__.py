"""One file a backbone: images in, features out."""
