"""The C++ step library: loading, packing weights, describing and running a program."""
