"""A shim in the place of the Gaudi SDK: what the plugin calls behaves, on the processor."""
