"""The Ray parts of a search: a cluster, its workers, and Tune as orchestrator; knows neither Optuna nor who wins."""
