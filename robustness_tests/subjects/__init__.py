"""The models and datasets under test, the bundled weights, and the code that trained them."""
