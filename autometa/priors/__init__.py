"""What past studies teach: their archive, how near their tasks are, and a sampler and a pruner that learn from them."""
