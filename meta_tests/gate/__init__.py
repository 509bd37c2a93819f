"""Tests of whole runs, and of what is installed."""
