"""Trials: a configuration and a seed in, a trained learner and its record out."""
