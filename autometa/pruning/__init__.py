"""A pruner that forecasts where a learning curve will end, from the curves of past studies."""
