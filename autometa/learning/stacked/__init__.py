"""Candidates of one architecture trained together, as one model with an axis of candidates; each as it would alone."""
