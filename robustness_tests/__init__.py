"""The properties that a releasable image classifier has to have, as pytest tests."""
