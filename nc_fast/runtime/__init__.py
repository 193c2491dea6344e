"""Threads, and progress of long calls."""
