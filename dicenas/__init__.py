"""Neural architecture search with DiCE units among the candidate operations."""

__version__ = "0.1.0"
