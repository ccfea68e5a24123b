"""Past studies on disk and in other forms: archives written and read back, and studies of others brought in."""
