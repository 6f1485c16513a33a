"""What masks and attention maps mean for a model, computed without running it or from what it recorded."""
