"""`inferplane bench`: standing workloads, load generator, figures; benchmarks/ uses them too."""
