"""The embedded demo: a generated data set of shapes and the run that compares recipes on it."""
