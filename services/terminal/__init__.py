"""What people read in a terminal: `rejoinder watch` follows a response, `tail` what ends, `usage` counts."""
