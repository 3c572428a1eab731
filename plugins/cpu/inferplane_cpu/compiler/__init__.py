"""The step compiler: capture a model's step once, lower it to a native program."""
