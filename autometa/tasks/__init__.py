"""What a few-shot task is like: features of its data set, and how similar two tasks are by them."""
