"""The SDK's bridge to torch."""
