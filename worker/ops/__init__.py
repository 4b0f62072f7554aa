"""The tools for people who operate the worker: dashboard, doctor, terminal output, deletion."""
