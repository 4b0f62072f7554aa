"""The products: each module has `distance`, `surface` and its photos."""
