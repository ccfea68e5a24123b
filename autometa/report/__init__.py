"""What past studies show, as facts in pandas frames and the same facts as plotly figures and pages."""
