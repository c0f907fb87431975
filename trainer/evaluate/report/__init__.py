"""Prediction files and references in, one HTML file to look at out: see `report_cli`."""
