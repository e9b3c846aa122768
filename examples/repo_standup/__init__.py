"""Each person gets a morning brief of their Git repositories. Run ``python -m examples.repo_standup``."""
