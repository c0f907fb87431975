"""Makes the tiny pretrained parts that the demo starts from; their weights are committed under models/tiny."""
