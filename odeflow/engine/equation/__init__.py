"""What is integrated: the state, the field, and its derivatives."""
