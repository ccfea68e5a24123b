"""Search spaces: parameters, their conditions, and the TOML files that describe them."""
