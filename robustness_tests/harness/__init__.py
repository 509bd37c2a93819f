"""What lets a test ask for a number: options, the run, the store of measurements, workers, fixtures."""
