"""Words per second and scores of pipelines, from words to annotations."""
