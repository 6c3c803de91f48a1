"""Many runs from one file: grids of configurations."""
