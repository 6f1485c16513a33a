"""Methods that change how a vision-language model attends to its image tokens."""
