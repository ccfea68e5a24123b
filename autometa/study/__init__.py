"""The search: where Optuna, which keeps the study, and Ray, which runs the trials, meet."""
