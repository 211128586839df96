"""Parquet, written and read in a child process with limits: the server itself never loads pyarrow."""
