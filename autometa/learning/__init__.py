"""Meta-training and evaluation: learners, backbones, and what trains them."""
