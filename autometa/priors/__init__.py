"""What past studies teach: the archive they are kept in."""
