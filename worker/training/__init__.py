"""The sandboxed program: turns a cohort into one clipped integer sum, and sees nothing else."""
