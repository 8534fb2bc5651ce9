"""Hugging Face folders: export, import, prediction and embeddings."""
