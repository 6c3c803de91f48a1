"""Many runs: grid files, Slurm, local workers, progress."""
