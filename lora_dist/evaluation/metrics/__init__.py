"""The metrics as modules of the `evaluate` library: each file is one, loaded by its path and copied from there."""
