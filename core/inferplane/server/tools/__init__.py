"""Tool calls and reasoning in what models write: one incremental engine, one row a format."""
