"""XTREME and XTREME-R: scores of submissions, as published and corrected."""
