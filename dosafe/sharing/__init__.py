"""Sharing: records in another project's schema, adapters and results on the Hugging Face hub."""
