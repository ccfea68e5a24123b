"""An Optuna sampler that starts where past studies ended, and the surrogates and posterior it proposes by."""
