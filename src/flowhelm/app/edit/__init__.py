"""A picture edited by a prior that is told something else."""
