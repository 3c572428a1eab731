"""fp8 on Gaudi: codes that reach 240 instead of 448."""
