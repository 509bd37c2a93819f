"""What is put to the test: models, datasets, the bundled weights and how they were trained."""
