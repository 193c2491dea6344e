"""What users pass: checked, and brought into one form."""
