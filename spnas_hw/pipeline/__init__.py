"""The steps of the job, one module each: what the command line calls."""
