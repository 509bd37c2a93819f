"""Records in, reports out: results.json, HTML with figures, and the summary of the terminal."""
