"""Study records to report.html, report.md, csv and LaTeX files."""
