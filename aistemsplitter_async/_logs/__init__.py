"""What is logged, by which logger, and where to, if anywhere."""
