"""The command line: one module a verb, each loaded when it is called."""
