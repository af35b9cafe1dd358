"""Embeddings of datasets: extracted, kept, shared by processes, written to Parquet."""
