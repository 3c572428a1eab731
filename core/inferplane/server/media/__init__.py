"""Pictures in requests: from their bytes to what the model's encoder reads."""
