"""Analyses over models and dictionaries: circuits, interventions, comparison, detection, null distributions."""
