"""Tests of the suite itself: its numbers against closed forms, its behaviour as a pytest plugin."""
