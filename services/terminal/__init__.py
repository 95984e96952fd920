"""What people read in a terminal: `rejoinder watch` follows a response, `rejoinder tail` what ends."""
