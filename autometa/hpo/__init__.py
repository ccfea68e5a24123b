"""The Optuna parts of a search: storage, single writer, ledger, samplers and pruners; knows neither Ray nor torch."""
